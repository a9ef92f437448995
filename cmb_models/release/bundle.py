"""The bundle, a release on disk: both networks as ONNX, the settings they were evaluated with, and a manifest of all files.

Loading verifies the manifest and opens ONNX files only; nothing is unpickled and no code of the bundle runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pydantic import ValidationError

from cmb_models.config.params import PipelineConfig, explain
from cmb_models.dataset.scans import open_phase, open_scan
from cmb_models.detect.detector import detect
from cmb_models.detection import DetectionResult
from cmb_models.errors import InputError
from cmb_models.files import read_json, sha256_of
from cmb_models.release.checksums import require_listed, write_checksums
from cmb_models.release.signing import SIGNATURE_FILE, require_signature
from cmb_models.runtime.device import DeviceNetwork, open_arrays, open_network
from cmb_models.volume import ScanLike

UNET_FILE, CNN_FILE, PIPELINE_FILE = "unet.onnx", "cnn.onnx", "pipeline.json"
METADATA_FILE, LINEAGE_FILE, CARD_FILE, MANIFEST_FILE = "metadata.json", "lineage.json", "model_card.md", "manifest.json"
WEIGHTS_DIR = "weights"  # unet.npz and cnn.npz, which a later training may start from; missing in bundles of earlier versions
EVALUATION_DIR = "evaluation"  # rows of the locked evaluation, as evaluation/rows.py writes them; in registered bundles
GOLDEN_SCAN, GOLDEN_ANSWER = "golden/scan.nii.gz", "golden/answer.json"
GOLDEN_PHASE = "golden/scan_part-phase.nii.gz"  # in a release that uses phase; named like any phase image
REQUIRED = (UNET_FILE, CNN_FILE, PIPELINE_FILE, METADATA_FILE, LINEAGE_FILE, CARD_FILE, GOLDEN_SCAN, GOLDEN_ANSWER)

# Names inside the ONNX graphs: (1, 1, I, J, K) image to heatmap, (N, C, i, j, k) patches to stage2_score (N,).
UNET_INPUT, UNET_OUTPUT = "image", "heatmap"
CNN_INPUT, CNN_OUTPUT = "patches", "stage2_score"

NO_KEYS: Mapping[str, bytes] = MappingProxyType({})  # no signature is required


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder. manifest_sha256 identifies it: it changes when any byte of any file does."""

    path: Path
    config: PipelineConfig
    manifest_sha256: str
    lineage: dict[str, Any]
    metadata: dict[str, Any]


def write_manifest(folder: Path) -> str:
    """Write manifest.json for all files of a bundle folder and return its SHA-256. Call it last."""
    folder = Path(folder)
    return write_checksums(folder / MANIFEST_FILE, _listable(folder))


def verify_manifest(folder: Path) -> str:
    """Compare every file of a bundle with its manifest; return the manifest's SHA-256. Raises InputError with all faults."""
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).is_file():
        raise InputError(
            "bundle-incomplete",
            folder,
            f"a bundle with a {MANIFEST_FILE}",
            "none",
            "pass a bundle folder, as `dvc repro` writes models/bundle",
        )
    require_listed(
        folder / MANIFEST_FILE,
        ("bundle-damaged", "bundle-changed"),
        _listable(folder),
        "fetch or export the bundle again",
        REQUIRED,
    )
    return sha256_of(folder / MANIFEST_FILE)


def _listable(folder: Path) -> set[str]:
    """Every file of a bundle but the manifest and the signature."""
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return files - {MANIFEST_FILE, SIGNATURE_FILE}


def load_bundle(folder: Path, trusted_keys: Mapping[str, bytes] = NO_KEYS) -> Bundle:
    """Verify a bundle folder and read its settings.

    Args:
        folder: The bundle.
        trusted_keys: Public keys (PEM by name), one of which must have signed it; see `release.keys.trusted_keys`. Without any
            no signature is required.

    Raises:
        InputError: For missing or changed files, invalid settings, and a bundle that none of the keys signed.
    """
    folder = Path(folder)
    require_signature(folder, trusted_keys)
    digest = verify_manifest(folder)
    try:
        config = PipelineConfig.model_validate(read_json(folder / PIPELINE_FILE))
    except ValidationError as error:
        raise InputError(
            "bundle-damaged", folder / PIPELINE_FILE, "known keys with possible values", explain(error), "export the bundle again"
        ) from error
    if config.preprocess.phase and not (folder / GOLDEN_PHASE).is_file():
        raise InputError("bundle-incomplete", folder, f"a {GOLDEN_PHASE}, since it uses phase", "none", "export the bundle again")
    return Bundle(folder, config, digest, read_json(folder / LINEAGE_FILE), read_json(folder / METADATA_FILE))


def config_sha256(config: PipelineConfig) -> str:
    """Hash of the settings, for lineage: canonical JSON, so that formatting does not matter."""
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def open_networks(bundle: Bundle, threads: int = 0, device: str = "cpu") -> tuple[DeviceNetwork, DeviceNetwork]:
    """Both networks, ready to run on a device of runtime.device.DEVICES; threads: on the CPU, 0 for all cores."""
    unet = open_network(bundle.path / UNET_FILE, UNET_INPUT, UNET_OUTPUT, device, threads)
    cnn = open_network(bundle.path / CNN_FILE, CNN_INPUT, CNN_OUTPUT, device, threads)
    return unet, cnn


class BundleDetector:
    """A Detector that runs a bundle in this process; its networks stay open between scans.

    Attributes:
        bundle: The verified bundle.
        origin: What the results are to say about it, "" for nothing (DetectionResult.origin).

    Args:
        folder: The bundle. It is verified against its manifest.
        threads: Threads of each network; 0 for all cores.
        trusted_keys: Public keys (PEM by name), one of which must have signed it; without any no signature is required.
        device: "cpu"; "cuda" for a CUDA device; "auto" for a CUDA device that works, else the CPU. The default is the device on
            which releases are evaluated and judged.

    Raises:
        InputError: If the bundle is incomplete, changed, not signed by a trusted key or has impossible settings, or if "cuda" is
            requested and no CUDA device works.
    """

    def __init__(self, folder: Path, threads: int = 0, trusted_keys: Mapping[str, bytes] = NO_KEYS, device: str = "cpu") -> None:
        self.bundle = load_bundle(folder, trusted_keys)
        self._networks: tuple[DeviceNetwork, DeviceNetwork] | None = open_networks(self.bundle, threads, device)
        self._arrays = open_arrays(device)
        self.origin = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the networks' memory; nothing can be detected afterwards."""
        self._networks = None

    @property
    def device(self) -> str:
        """Where the networks run now: "cpu" or the CUDA device's name, and why not there if it was asked for."""
        if self._networks is None:
            return "closed"
        networks = ", ".join(sorted({str(network) for network in self._networks}))
        return networks if str(self._arrays) in networks else f"{networks}; scans prepared on {self._arrays}"

    @property
    def requires_phase(self) -> bool:
        """Whether each scan needs its phase image."""
        return self.bundle.config.preprocess.phase

    def detect(self, scan: ScanLike, phase: ScanLike | None = None, *, case: str | None = None) -> DetectionResult:
        """Detect microbleeds in one scan, as `detection.Detector` describes.

        Args:
            scan: Path of a NIfTI file, a nibabel image, or a Volume (I, J, K) in any orientation.
            phase: The scan's phase image; not opened unless it is required. If None, it is read from the file next to `scan` where
                that is a path.
            case: Name of the scan in error messages; the file's name if None.

        Returns:
            Detections in the scan's own space, with the volume they were found in.

        Raises:
            InputError: If the scan is not usable, or its phase image is missing or does not belong to it.
            ValueError: If the detector was closed.
        """
        if self._networks is None:
            raise ValueError(f"the detector of {self.bundle.path} is closed; load the bundle again")
        volume, case = open_scan(scan, case)
        image = open_phase(phase, scan, case, self.requires_phase)
        unet, cnn = self._networks
        result = self._arrays.run(lambda arrays: detect(volume, self.bundle.config, unet, cnn, case, image, arrays), case)
        return replace(result, manifest_sha256=self.bundle.manifest_sha256, origin=self.origin).found_in(volume)
