"""A release as an MLflow pyfunc model, for notebooks and batch jobs; the server reads the bundle itself.

MLflow stores this file with the model and runs it on load (models from code), so it needs cmb_models installed.
"""

from __future__ import annotations

from pathlib import Path

import mlflow
import pandas as pd
import yaml
from mlflow.pyfunc import PythonModel

from cmb_models.client.outputs import COLUMNS
from cmb_models.io.nifti import scan_name
from cmb_models.release.bundle import BundleDetector
from cmb_models.release.keys import trusted_keys


class CmbDetector(PythonModel):
    """Maps paths of NIfTI files to one row per detection, with the columns of the client's detections.csv.

    A release that uses phase reads each scan's phase image from the file next to it (dataset.layout.phase_beside).
    """

    def load_context(self, context) -> None:
        """Open the bundle after verifying its manifest, and its signature where the working directory's workspace requires one.

        MLflow passes on no arguments, so the keys are resolved here; CMB_PUBLIC_KEY names one explicitly.
        """
        folder = Path(context.artifacts["bundle"])
        self._detector = BundleDetector(folder, trusted_keys=trusted_keys(Path(".")))
        self._release = _release_number(folder)

    def predict(self, context, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Detect in each file of column `path`; scans without detections have no row. Raises InputError naming the file."""
        rows = []
        for path in model_input["path"]:
            answer = self._detector.detect(path, case=str(path))
            origin = self._release, answer.manifest_sha256
            rows += [
                (scan_name(path), *d.position_mm, *d.index, d.diameter_mm, d.score, d.stage1_score, *origin)
                for d in answer.detections
            ]
        return pd.DataFrame(rows, columns=list(COLUMNS))


def _release_number(folder: Path) -> int:
    """The model version that MLflow records next to a model loaded from the registry; 0 for a model loaded otherwise."""
    file = folder.parents[1] / "registered_model_meta"
    return int(yaml.safe_load(file.read_text(encoding="utf-8"))["model_version"]) if file.is_file() else 0


mlflow.models.set_model(CmbDetector())
