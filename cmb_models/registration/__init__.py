"""Registration of head scans: where a place of one scan lies in another, and whether that is known.

align registers two scans with SimpleITK, by way of head (masks and reduced grids) and itk (its frame); evidence decides whether it
succeeded; resample draws one scan on the other's grid. Needs the extra `compare`.
"""

from cmb_models.registration.align import register
from cmb_models.registration.evidence import Registration
from cmb_models.registration.resample import resample

__all__ = ["Registration", "register", "resample"]
