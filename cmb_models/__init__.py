"""cmb-models: a cerebral microbleed detector that a site trains on its own few scans. Research software, not a medical device.

The names of `cmb_models.api` are available here and imported on first use.
"""

import importlib

__version__ = "0.2.0"
__all__ = ["Detection", "DetectionResult", "Detector", "InputError", "Volume", "compare", "connect", "evaluate", "load", "simulate"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("cmb_models.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
