"""The atlas of cmb_models/regions: python -m scripts.regions_atlas. From MNI152 maps; see ATLAS_LICENSE next to it.

Regions follow the Microbleed Anatomical Rating Scale (Gregoire et al. 2009, doi:10.1212/WNL.0b013e3181c34a7d): infratentorial is
brainstem and cerebellum; deep is basal ganglia, thalamus, internal and external capsule, corpus callosum, deep and periventricular
white matter; lobar is the rest. Coarse: ellipsoids, a tentorium of planes, and a distance to the ventricles.
"""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
from scipy import ndimage

from cmb_models.phantom.head.template import BRAINSTEM, ellipsoid, load_template, tentorium_mm
from cmb_models.regions.atlas import FILE, REGIONS

SPACING = 4  # mm, and voxels of the 1 mm maps
# Basal ganglia, thalamus and both capsules: centre and half axes in MNI mm, mirrored. Holds the centres of caudate, putamen,
# pallidum and thalamus in AAL (Tzourio-Mazoyer et al. 2002, doi:10.1006/nimg.2001.0978), ends at the external capsule.
DEEP_GREY = ((17, -4, 5), (17, 30, 19))
PERIVENTRICULAR_MM = 10.0  # white matter nearer to a lateral ventricle is deep: assumed, the scale gives no distance
BEHIND_MM = -38.0  # the cerebellum lies behind, as in the phantom
# Signal of an SWI with the contrast of a gradient echo, relative: assumed. Skull and scalp by distance to the brain, mm.
WHITE, GREY, FLUID, SKULL, SCALP = 0.8, 0.9, 0.85, 0.1, 0.7
SKULL_MM, SCALP_MM = (2.0, 8.0), 14.0


def main() -> None:
    """Write the atlas to FILE."""
    atlas = build()
    FILE.write_bytes(gzip.compress(atlas.to_bytes(), 9, mtime=0))
    print(f"{FILE.name}: {atlas.shape[:3]}, {FILE.stat().st_size / 1000:.0f} kB")


def build() -> nib.Nifti1Image:
    """The atlas, uint8 (I, J, K, 3): intensity x 200, 1 + index into REGIONS, and whether it is brain."""
    template = load_template()
    full = template.full
    fine = (
        np.repeat(np.repeat(np.repeat(m, 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in full.shape)]
        for m in (template.brain_mm, template.head_mm, template.ventricle_mm)
    )
    brain_mm, head_mm, ventricle_mm = fine
    region = regions(full, template.white, brain_mm, ventricle_mm)
    image = intensity(template.grey / 255, template.white / 255, brain_mm, head_mm)
    shape = [n // SPACING for n in full.shape]
    coarse = blocks(image, shape).mean(axis=1).reshape(shape)
    votes = np.stack([(blocks(region == n, shape)).sum(axis=1) for n in range(1, len(REGIONS) + 1)])
    label = (1 + votes.argmax(axis=0)).astype(np.uint8).reshape(shape)
    affine = np.diag([SPACING] * 3 + [1.0])
    affine[:3, 3] = np.array(full.origin_mm) + (SPACING - 1) / 2
    brain = blocks(brain_mm < 0, shape).mean(axis=1).reshape(shape) > 0.5
    stored = np.stack([np.rint(200 * coarse), label, brain], axis=-1).astype(np.uint8)
    atlas = nib.Nifti1Image(stored, affine)
    atlas.set_qform(affine, code=4)
    atlas.set_sform(affine, code=4)  # MNI
    return atlas


def regions(grid, white: np.ndarray, brain_mm: np.ndarray, ventricle_mm: np.ndarray) -> np.ndarray:
    """1 + index into REGIONS of every voxel of the 1 mm maps; beyond the brain that of the nearest voxel in it."""
    x, y, z = (grid.axis_mm(a) for a in range(3))
    stem = np.min([ellipsoid(grid, *part) for part in BRAINSTEM], axis=0) < 1
    below = (z < tentorium_mm(x[:, None], y)[:, :, None]) & (y < BEHIND_MM)[None, :, None]
    grey = ellipsoid(grid, *DEEP_GREY) < 1
    deep = grey | ((ventricle_mm < PERIVENTRICULAR_MM) & ((white > 127) | (ventricle_mm < 0)))
    region = np.full(grid.shape, 1 + REGIONS.index("lobar"), np.uint8)
    region[deep] = 1 + REGIONS.index("deep")
    region[below | stem] = 1 + REGIONS.index("infratentorial")
    nearest = ndimage.distance_transform_edt(brain_mm > 0, return_distances=False, return_indices=True)
    return region[tuple(nearest)]


def intensity(grey: np.ndarray, white: np.ndarray, brain_mm: np.ndarray, head_mm: np.ndarray) -> np.ndarray:
    """An SWI without veins, 0 to 1."""
    fluid = np.clip(1 - grey - white, 0, 1)
    inner = WHITE * white + GREY * grey + FLUID * fluid
    outer = np.select([head_mm < SKULL_MM[0], head_mm < SKULL_MM[1], head_mm < SCALP_MM], [SCALP, SKULL, SCALP], 0.0)
    outer = np.where(brain_mm < SKULL_MM[0], FLUID, np.where(brain_mm < SKULL_MM[1], SKULL, outer))
    return np.where(brain_mm < 0, inner, outer)


def blocks(values: np.ndarray, shape: list[int]) -> np.ndarray:
    """Voxels (N, SPACING^3) of each coarse voxel."""
    cut = values[tuple(slice(0, n * SPACING) for n in shape)]
    parts = cut.reshape([size for n in shape for size in (n, SPACING)])
    return parts.transpose(0, 2, 4, 1, 3, 5).reshape(np.prod(shape), -1)


if __name__ == "__main__":
    main()
