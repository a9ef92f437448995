"""Errors by their code: messages may be reworded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cmb_models.errors import InputError


@contextmanager
def refused(code: str, case: str = "", got: str = "") -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Expect an InputError with this code; case, got: patterns that occur in these parts of it."""
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"expected {code}, got {error.code}: {error}"
    assert re.search(case, error.case), f"{case!r} is not in the case: {error}"
    assert re.search(got, error.got), f"{got!r} is not in what was got: {error}"
