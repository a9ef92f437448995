"""Settings of the product's tests hold here too: the share of the cores, and tests marked `ci` with CMB_EVERY_STEP=1 alone."""

from __future__ import annotations

from tests.conftest import pytest_collection_modifyitems  # noqa: F401
