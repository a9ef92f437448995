"""Check that this environment can run the server's Python models.

Run when the image is built: `python3 -m cmb_models.serving.run.image_check`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

TRITON = Path("/opt/tritonserver")
STEPS = (
    "cmb_models.client.contract",
    "cmb_models.config.params",
    "cmb_models.detect.candidates",
    "cmb_models.detect.detector",
    "cmb_models.detect.patches",
    "cmb_models.detect.phase",
    "cmb_models.detect.preprocess",
    "cmb_models.runtime.device",
    "cmb_models.serving.triton.device_metric",
)
TOOLS = (
    "cmb_models.serving.run.entrypoint",
    "cmb_models.serving.deploy.checksums",
    "cmb_models.serving.check.command",
    "cmb_models.serving.check.checks",
)
HEAVY = ("torch", "monai", "mlflow", "optuna", "matplotlib", "onnxruntime")


def faults(triton: Path | None) -> list[str]:
    """Faults of the running environment. triton: Triton's folder; None to check only Python."""
    found = []
    for name in (*STEPS, *TOOLS):
        try:
            importlib.import_module(name)
        except ImportError as error:
            found.append(f"{name} cannot be imported: {error}")
    heavy = [name for name in HEAVY if name in sys.modules]
    if heavy:
        found.append(f"the steps import {', '.join(heavy)}")
    numpy = sys.modules.get("numpy")
    if numpy is not None and int(numpy.__version__.split(".")[0]) >= 2:
        found.append(f"numpy {numpy.__version__}, with which Triton's Python backend may return wrong values")
    if triton is not None:
        parts = (triton / part for part in ("bin/tritonserver", "backends/python", "backends/onnxruntime"))
        found += [f"{part} is missing" for part in parts if not part.exists()]
    return found


if __name__ == "__main__":
    wrong = faults(TRITON)
    sys.stdout.write("".join(f"image: {fault}\n" for fault in wrong) or "image: fit\n")
    sys.exit(1 if wrong else 0)
