"""The shipped atlas: a head in MNI space, 4 mm, with a region for every voxel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np

from cmb_models.registration.head import Head, find_head
from cmb_models.volume import Volume, index_from_world

FILE = Path(__file__).with_name("atlas.nii.gz")
REGIONS = ("lobar", "deep", "infratentorial")  # of the Microbleed Anatomical Rating Scale


@dataclass(frozen=True)
class Atlas:
    """An atlas in MNI mm.

    Attributes:
        head: The image to register to scans, (I, J, K).
        brain: The same without skull and scalp, for scans that have none.
        region: uint8, the same shape, 1 + index into REGIONS in every voxel.
    """

    head: Head
    brain: Head
    region: np.ndarray

    def regions_at(self, mni_mm: np.ndarray) -> list[str]:
        """The region at places (N, 3) in MNI mm, beyond the atlas that of the nearest voxel; [] for none."""
        index = np.rint(index_from_world(mni_mm, self.head.image.affine)).astype(int)
        index = np.clip(index, 0, np.array(self.region.shape) - 1)
        return [REGIONS[n - 1] for n in self.region[tuple(index.T)]]


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Read the atlas, once per process."""
    image = nib.Nifti1Image.from_filename(FILE)
    intensity, region, brain = np.moveaxis(np.asarray(image.dataobj), -1, 0)
    head, alone = (find_head(Volume(data, image.affine)) for data in (intensity, np.where(brain, intensity, 0)))
    return Atlas(head, alone, region)
