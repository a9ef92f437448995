"""What the wheel carries besides the package: the template of a workspace and the files that Triton loads."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = {
    "dvc.yaml": "cmb_models/template/dvc.yaml",
    "params.yaml": "cmb_models/template/params.yaml",
    "pipelines": "cmb_models/template/pipelines",
    "serving/backends": "cmb_models/serving/files/backends",
    "serving/model_repository": "cmb_models/serving/files/model_repository",
    "serving/requirements.txt": "cmb_models/serving/files/requirements.txt",
}


class Hook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable install reads these files in the checkout: a copy would go stale."""
        if version != "editable":
            build_data["force_include"].update(FILES)
