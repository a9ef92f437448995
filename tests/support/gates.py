"""Gates for tests: the repository's own with every check switched off but those named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CHECKS = ("min_", "max_", "sensitivity_margin", "fp_margin")  # what the settings that ask for something begin with
HOW = ("min_lesions", "min_scans", "min_common_scans")  # these say when there is enough to ask


def only_asking(**limits: Any) -> dict[str, Any]:
    """The `gate` section of params.yaml with these limits alone."""
    shipped = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))["gate"]
    off = {k: None for k in shipped if k.startswith(CHECKS) and k not in HOW}
    off["min_size_sensitivity"] = dict.fromkeys(shipped["min_size_sensitivity"])
    return shipped | off | limits
