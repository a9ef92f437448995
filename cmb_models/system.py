"""What runs on which operating system."""

from __future__ import annotations

import sys

from cmb_models.errors import InputError


def require_linux(what: str) -> None:
    """Refuse work that needs Linux: training and serving use its process and file locks. Detection and the client run anywhere.

    Args:
        what: the work, as the message names it.

    Raises:
        InputError: the system is another one.
    """
    if sys.platform != "linux":
        remedy = "run it on Linux, in WSL or in a container; `cmb detect` and the client run here"
        raise InputError(what, "Linux", sys.platform, remedy)
