"""Coarse anatomical region of a finding: lobar, deep or infratentorial, by registration of a 4 mm atlas.

atlas reads the shipped atlas, which scripts/regions_atlas.py makes; assign places it in a scan. Needs the extra `compare`.
"""

from cmb_models.regions.assign import regions_of
from cmb_models.regions.atlas import REGIONS

__all__ = ["REGIONS", "regions_of"]
