"""The Python interface: load or connect to a detector, detect, evaluate, simulate. Re-exported by `cmb_models`.

Heavy libraries are imported when a function needs them, so that importing this module stays fast.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_models.base_release import BASE
from cmb_models.detection import Detection, DetectionResult, Detector
from cmb_models.errors import InputError, optional_packages
from cmb_models.volume import Volume

if TYPE_CHECKING:
    from cmb_models.client.connection import Tls
    from cmb_models.client.grpc import Client
    from cmb_models.evaluation.run import Evaluation
    from cmb_models.followup.compare import Comparison
    from cmb_models.io.annotations import Annotation
    from cmb_models.phantom import SimulatedScan
    from cmb_models.release.bundle import BundleDetector

__all__ = ["Detection", "DetectionResult", "Detector", "InputError", "Volume", "compare", "connect", "evaluate", "load", "simulate"]


def load(
    bundle: str | os.PathLike[str] = BASE,
    *,
    trusted_keys: Mapping[str, bytes] | None = None,
    threads: int = 0,
    device: str = "auto",
) -> BundleDetector:
    """Load a release from its bundle, to detect in this process. Needs the `detect` extra.

    Args:
        bundle: The bundle's folder, or "base" for the base release that the package ships, which was trained on simulated scans
            only; a folder of that name is "./base". Every file is verified against its manifest.
        trusted_keys: Public keys (PEM) by name. The bundle must be signed with one of them; without any, it is rejected. If None,
            signatures are not checked, except that of the base release, with the key next to it (release/base.py). Nothing is
            read from the current directory or its git repository.
        threads: Threads of each network on the CPU; 0 for all cores.
        device: "cpu"; "cuda" for a CUDA device; "auto" for a CUDA device that works, else the CPU. `detector.device` is the
            device in use.

    Returns:
        A detector whose networks stay open until it is closed or leaves its `with` block.

    Raises:
        InputError: If the bundle is incomplete, changed, not signed as required, or has invalid settings; if `device` is
            "cuda" and no CUDA device works; if this build of the package has no base release, or packages are missing.
    """
    from cmb_models.release.base import open_base
    from cmb_models.release.bundle import NO_KEYS, BundleDetector

    if not isinstance(bundle, str | os.PathLike):
        raise _no_argument("bundle", "the path of a bundle's folder", bundle)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise _no_argument("threads", "a whole number of threads, 0 for all cores", threads)
    if trusted_keys is not None and not trusted_keys:
        remedy = "pass a key, or None to skip the check"
        raise InputError("key-missing", bundle, "a trusted key to check its signature with", "none", remedy)
    try:
        # A PathLike is a folder, whatever its name.
        if bundle == BASE:
            return open_base(threads, trusted_keys, device)
        return BundleDetector(Path(bundle), threads, trusted_keys or NO_KEYS, device)
    except ModuleNotFoundError as error:
        remedy = "run pip install 'cmb-models[detect]'"
        raise InputError("package-missing", bundle, "the packages that run networks", f"no {error.name}", remedy) from error


def connect(address: str, *, timeout_s: float = 120, tls: Tls | None = None, shared_memory: bool = False) -> Client:
    """Create a client that detects on a server. Needs the `client` extra; nothing is sent yet.

    Args:
        address: HOST:PORT of the server's gRPC service, optionally with the prefix grpc:// or grpcs://.
        timeout_s: Seconds to wait for each response.
        tls: Certificates; if None, the environment decides (client.connection).
        shared_memory: Pass scans through shared memory to a server on the same machine; Linux only, needs CMB_ADMIN_KEY.

    Returns:
        A detector that may be used from several threads, until it is closed or leaves its `with` block.

    Raises:
        InputError: If the address is no text, gRPC is not installed or a certificate file is not usable.
    """
    if not isinstance(address, str) or not address.strip():
        raise _no_argument("address", "HOST:PORT of a server", address)
    try:
        from cmb_models.client.grpc import Client
    except ModuleNotFoundError as error:
        remedy = "run pip install 'cmb-models[client]'"
        raise InputError("package-missing", address, "the gRPC client's packages", f"no {error.name}", remedy) from error
    return Client(address, timeout_s=timeout_s, tls=tls, shared_memory=shared_memory)


def _no_argument(name: str, expected: str, got: object) -> InputError:
    return InputError("setting-invalid", name, expected, repr(got), "correct the argument")


def evaluate(
    results: Mapping[str, DetectionResult],
    annotations: str | os.PathLike[str] | Sequence[Annotation],
    *,
    threshold: float | None = None,
    tolerance_mm: float = 3.0,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compare results with annotated microbleeds. Needs the `analysis` extra.

    Args:
        results: Result of each scan by its name: SUBJECT or SUBJECT_SESSION as in the annotations, optionally with a dataset's name
            as prefix and `_swi` or a file suffix at the end. Scans without annotations count as free of microbleeds.
        annotations: Path of an annotations.csv, or its rows.
        threshold: Operating point on the calibrated score, in [0, 1]; the release's if None.
        tolerance_mm: A detection within the larger of this and the lesion's radius finds the lesion.
        resamples: Bootstrap resamples of subjects for the 95 % intervals.
        seed: Seed of the resampling.

    Returns:
        Sensitivity and FP/scan at the threshold and the FROC table, with 95 % intervals over subjects.

    Raises:
        InputError: If there are no results, two results of one scan, annotations of a scan without a result, or if `threshold` is
            None and the results come from releases with different thresholds.
    """
    with optional_packages("evaluate"):
        from cmb_models.evaluation.run import evaluate_results
    from cmb_models.io.annotations import read_annotations

    rows = read_annotations(Path(annotations)) if isinstance(annotations, str | os.PathLike) else annotations
    return evaluate_results(results, rows, threshold, tolerance_mm, resamples, seed)


def compare(baseline: DetectionResult, followup: DetectionResult, *, threshold: float | None = None) -> Comparison:
    """Compare two scans of one patient: which microbleeds are new. Needs the `compare` extra; takes seconds.

    Args:
        baseline: Result of the earlier scan, as `Detector.detect` returns it, with its scan.
        followup: Result of the later scan, by the same release.
        threshold: Lowest score of a detection, in [0, 1]; the release's if None.

    Returns:
        The lesions of both scans by class, with the severity of ARIA-H by the number of new ones.

    Raises:
        InputError: If the scans cannot be registered, one is not in scanner space or missing, the results are of two releases, or
            packages are missing.
    """
    with optional_packages("compare", "compare"):
        from cmb_models.followup.compare import compare_results

    return compare_results(baseline, followup, threshold)


def simulate(*, seed: int = 0, n_microbleeds: int = 4, protocol: str = "ukb") -> SimulatedScan:
    """Simulate an SWI scan of one subject. Needs the `phantom` extra; takes seconds to a minute.

    Args:
        seed: The same seed gives the same scan, up to rounding on other processors; 0 or more.
        n_microbleeds: Exact number of microbleeds, 0 to 60. Mimics are added as they occur.
        protocol: Name in phantom.PRESETS: ukb, aibl, clinical, 7t, random, plain or small.

    Returns:
        The scan with its images as Volumes (`swi`, `phase` and others) and its `annotations`, mimics included.

    Raises:
        InputError: If the seed, the number or the protocol's name is not valid.
    """
    import numpy as np

    from cmb_models.phantom import draw_config, simulate_scan

    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError("phantom-setting", "phantom seed", "an integer of 0 or more", repr(seed), "pass another seed")
    settings, subject = np.random.SeedSequence(seed).spawn(2)
    return simulate_scan(subject, n_microbleeds, draw_config(protocol, np.random.default_rng(settings)))
