"""One out-of-distribution scan: a head seen through a slab of thick slices, its contrast, shading and noise drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cmb_models.errors import InputError
from cmb_models.io.annotations import Annotation
from cmb_models.volume import Volume, world_from_index
from research.ood_simulator.anatomy import LOW_MM, STEP_MM, Head, build_head, draw_traits
from research.ood_simulator.lesions import Body, draw_cmb, draw_diameter, draw_mimics, window
from research.ood_simulator.shapes import smooth_noise
from research.ood_simulator.veins import draw_sinuses, draw_veins, share

# Voxel sizes in mm: UK Biobank, AIBL, and clinical ones from fine to thick.
PROTOCOLS = ((0.8, 0.8, 3.0), (0.94, 0.94, 1.75), (0.5, 0.5, 2.0), (0.9, 0.9, 4.0), (0.7, 0.7, 5.0))
FINE_MM = 1.0  # slices are averaged from layers at most this thick
MIN_CNR = 4.0  # of a microbleed, by noise and uneven tissue around it: a fainter one would not be marked by a reader
TRIES = 400  # for a scan's places
APART_MM = 3.0  # between the rims of two bodies
VEIN_SHARE = 0.03  # most vein in and around a microbleed: on a vein it could not be distinguished


@dataclass(frozen=True)
class OodScan:
    """What was made. clean: noise-free signal, noise: standard deviation of the noise, both (I, J, K) float32 as swi's voxels.

    centres_vox: (N, 3) of the annotations, in voxels of swi.
    """

    swi: Volume
    annotations: tuple[Annotation, ...]
    centres_vox: np.ndarray
    clean: np.ndarray = field(repr=False)
    noise: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Slab:
    """Where voxels lie. layers: how many thinner ones make a slice. to_index, to_layer: (4, 4), head mm to voxels of either."""

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    layers: int
    to_layer: np.ndarray

    @property
    def fine_shape(self) -> tuple[int, int, int]:
        return (*self.shape[:2], self.shape[2] * self.layers)

    def averaged(self, fine: np.ndarray) -> np.ndarray:
        """Layers (I, J, K * layers) to slices (I, J, K)."""
        return fine.reshape(*fine.shape[:2], -1, self.layers).mean(axis=3)

    @property
    def to_index(self) -> np.ndarray:
        scaled = np.diag([1, 1, 1 / self.layers, 1])
        scaled[2, 3] = 0.5 / self.layers - 0.5
        return scaled @ self.to_layer

    def centre_vox(self, centre_mm: np.ndarray) -> np.ndarray:
        """Places (N, 3) in mm of the head as voxels of the scan (N, 3), with fractions."""
        return np.atleast_2d(centre_mm) @ self.to_index[:3, :3].T + self.to_index[:3, 3]


def simulate(seed: np.random.SeedSequence, spacing_mm: tuple[float, float, float], n_cmbs: int, subject: str) -> OodScan:
    """Draw a person with microbleeds, mimics and veins, and scan them: 5 to 8 s on one core.

    Raises InputError when the head has no room for so many microbleeds that can be seen.
    """
    person, pose, appearance = (np.random.default_rng(s) for s in seed.spawn(3))
    head = build_head(person, draw_traits(person))
    slab = _slab(pose, spacing_mm)
    fine = _seen(appearance, head, slab)
    veins = share(appearance, draw_veins(person, head), slab.to_layer, slab.fine_shape, np.prod(spacing_mm) / slab.layers)
    fine *= 1 - appearance.uniform(0.55, 0.95) * np.minimum(1, appearance.uniform(1.0, 1.7) * veins)
    noise = _noise_level(appearance, slab)
    clean = slab.averaged(fine)
    bodies = _planted(person, head, slab, clean, slab.averaged(veins), noise, n_cmbs)
    data = _noisy(appearance, clean, noise) * np.float32(appearance.uniform(300, 3000) / clean.max())
    return _stored(appearance, slab, np.rint(data), clean, noise, bodies, subject)


def _slab(rng: np.random.Generator, spacing_mm: tuple[float, float, float]) -> Slab:
    """Axial slices over the whole brain, turned as heads and slabs are."""
    layers = int(np.ceil(spacing_mm[2] / FINE_MM))
    extent = np.array([178.0, 216.0, rng.uniform(138, 156)])
    shape = tuple(int(n) for n in np.ceil(extent / spacing_mm))
    turn = Rotation.from_euler("xyz", rng.normal(0, (8, 3, 4)), degrees=True).as_matrix()
    fine_mm = np.array([spacing_mm[0], spacing_mm[1], spacing_mm[2] / layers])
    to_layer = np.eye(4)
    to_layer[:3, :3] = turn / fine_mm[:, None]
    middle = (np.array(shape) * (1, 1, layers) - 1) / 2
    to_layer[:3, 3] = middle - to_layer[:3, :3] @ (rng.normal(0, 2, 3) + (0, 0, 6))
    return Slab(spacing_mm, shape, layers, to_layer)


def _seen(rng: np.random.Generator, head: Head, slab: Slab) -> np.ndarray:
    """The head's brightness in the slab's layers, sinuses in it, with a contrast curve and shading: float32 around 1."""
    shape = slab.fine_shape
    back = np.linalg.inv(slab.to_layer)
    back[:3] /= STEP_MM
    back[:3, 3] -= LOW_MM / STEP_MM
    fine = ndimage.affine_transform(head.brightness, back[:3, :3], back[:3, 3], shape, order=1, output=np.float32)
    voxel_mm3 = float(np.prod(slab.spacing_mm)) / slab.layers
    fine += (rng.uniform(0.1, 1.1) - fine) * share(rng, draw_sinuses(rng, head), slab.to_layer, shape, voxel_mm3)
    fine = np.maximum(fine, 0) ** np.float32(rng.uniform(0.75, 1.5))
    scale = [40 / (s / (n / m)) for s, n, m in zip(slab.spacing_mm, shape, slab.shape, strict=True)]
    shading = smooth_noise(rng, shape, float(np.mean(scale)))
    return fine * np.exp(np.float32(rng.uniform(0.03, 0.16)) * shading)


def _noise_level(rng: np.random.Generator, slab: Slab) -> np.ndarray:
    """Standard deviation of the noise, (I, J, K) float32, white matter being 1; more in the middle, as with parallel imaging."""
    level = 1 / rng.uniform(14, 40)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in slab.shape), indexing="ij")
    middle = np.exp(-sum((a - rng.normal(0, 0.15)) ** 2 for a in axes) / 0.35)
    uneven = 1 + rng.uniform(0, 0.8) * (rng.random() < 0.6) * middle
    return (level * uneven * (1 + 0.05 * smooth_noise(rng, slab.shape, 12))).astype(np.float32)


def _noisy(rng: np.random.Generator, clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Rician magnitude (I, J, K); in half of the scans neighbouring voxels share noise, as after interpolation."""
    width = rng.uniform(0.3, 0.6) if rng.random() < 0.5 else 0.0
    parts = []
    for _ in range(2):
        part = rng.standard_normal(clean.shape, dtype=np.float32)
        if width:
            part = ndimage.gaussian_filter(part, (width, width, 0))
            part /= part.std()
        parts.append(part * noise)
    return np.hypot(clean + parts[0], parts[1])


def _planted(rng, head: Head, slab: Slab, clean: np.ndarray, veins: np.ndarray, noise: np.ndarray, n_cmbs: int) -> list[Body]:
    """Draw mimics and microbleeds into the slices, in place; a microbleed that cannot be seen is drawn again elsewhere."""
    bodies = []
    for body in draw_mimics(rng, head):
        if (there := window(body, slab.to_index, slab.shape)) and _free(body, bodies):
            clean[there[0]] *= there[1]
            bodies.append(body)
    wanted = [draw_diameter(rng) for _ in range(n_cmbs)]
    for _ in range(TRIES * n_cmbs):
        if not wanted:
            break
        body = draw_cmb(rng, head, wanted[-1])
        there = window(body, slab.to_index, slab.shape)
        if there is None or not _free(body, bodies) or _on_vein(body, slab, veins):
            continue
        before = clean[there[0]].copy()
        clean[there[0]] *= there[1]
        if contrast_to_noise(slab, clean, before, there[0], body, noise) >= MIN_CNR:
            bodies.append(body)
            wanted.pop()
        else:
            clean[there[0]] = before
    if wanted:
        got = f"none for {len(wanted)} of them"
        raise InputError(
            "phantom-no-room", "OOD simulator", f"room for {n_cmbs} microbleeds of sufficient contrast", got, "ask for fewer"
        )
    return bodies


def _free(body: Body, others: list[Body]) -> bool:
    """Whether a body keeps its distance from all others."""
    gaps = (np.linalg.norm(body.centre_mm - o.centre_mm) - (body.diameter_mm + o.diameter_mm) / 2 for o in others)
    return all(gap > APART_MM for gap in gaps)


def _on_vein(body: Body, slab: Slab, veins: np.ndarray) -> bool:
    middle = slab.to_index[:3, :3] @ body.centre_mm + slab.to_index[:3, 3]
    half = (body.diameter_mm / 2 + 1) * np.linalg.norm(slab.to_index[:3, :3], axis=1)
    around = tuple(slice(max(0, round(m - h)), round(m + h) + 1) for m, h in zip(middle, half, strict=True))
    return bool(veins[around].mean() > VEIN_SHARE)


def contrast_to_noise(
    slab: Slab, clean: np.ndarray, before: np.ndarray, box: tuple[slice, ...], body: Body, noise: np.ndarray
) -> float:
    """How far a body's middle lies below what was there without it, and below its surroundings, the less of both.

    In standard deviations of noise and uneven tissue there. before: the voxels of `clean` in `box` without the body.
    """
    i, j, k = np.rint(slab.centre_vox(body.centre_mm)[0]).astype(int)
    without = before[i - box[0].start, j - box[1].start, k - box[2].start]
    around, spread = surroundings(clean[:, :, k], (i, j), body.diameter_mm, slab.spacing_mm[0])
    return float((min(without, around) - clean[i, j, k]) / np.hypot(noise[i, j, k], spread))


def surroundings(picture: np.ndarray, at: tuple[int, int], diameter_mm: float, side_mm: float) -> tuple[float, float]:
    """Median of a slice (I, J) in the ring from 1 to 3 mm around a body, and the spread there by the median deviation."""
    reach = int(np.ceil((diameter_mm / 2 + 3) / side_mm))
    low = [max(0, a - reach) for a in at]
    part = picture[low[0] : at[0] + reach + 1, low[1] : at[1] + reach + 1]
    away = np.hypot(*(np.indices(part.shape) + np.reshape(low, (2, 1, 1)) - np.reshape(at, (2, 1, 1)))) * side_mm
    ring = part[(away > diameter_mm / 2 + 1) & (away < diameter_mm / 2 + 3)]
    middle = float(np.median(ring))
    return middle, 1.4826 * float(np.median(np.abs(ring - middle)))


def _stored(rng, slab: Slab, data: np.ndarray, clean: np.ndarray, noise: np.ndarray, bodies: list[Body], subject: str) -> OodScan:
    """The scan as a site has it: some orientation, some oblique slab, annotations in scanner mm."""
    affine = np.diag([*slab.spacing_mm, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", rng.normal(0, (6, 2, 2)), degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(slab.shape) - 1) / 2) + rng.normal(0, 8, 3)
    centres = slab.centre_vox(np.array([b.centre_mm for b in bodies]).reshape(-1, 3))
    for axis in np.flatnonzero(rng.random(3) < (0.5, 0.5, 0.0)):
        data, clean, noise = (np.flip(a, axis) for a in (data, clean, noise))
        centres[:, axis] = slab.shape[axis] - 1 - centres[:, axis]
        flip = np.eye(4)
        flip[axis, axis], flip[axis, 3] = -1, slab.shape[axis] - 1
        affine = affine @ flip
    marked = tuple(
        Annotation(subject, "", *(float(w) for w in world), round(b.diameter_mm, 2), b.label, "generator", b.region)
        for world, b in zip(world_from_index(centres, affine), bodies, strict=True)
    )
    return OodScan(Volume(np.ascontiguousarray(data, np.float32), affine), marked, centres, clean, noise)
