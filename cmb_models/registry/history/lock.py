"""The lock of a registry: one change at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cmb_models.errors import InputError
from cmb_models.files import exclusive
from cmb_models.hash_chain import read_entries
from cmb_models.registry.history.state import registry_state, words
from cmb_models.registry.mlflow.store import STATE_DIR, Registry
from cmb_models.workspace.paths import AUDIT_LOG


@contextmanager
def registry_lock(registry: Registry) -> Iterator[None]:
    """Wait for the registry lock of the workspace; the lock of a killed process is released."""
    file = registry.workspace / STATE_DIR / "registry.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(file):
        yield


@contextmanager
def first_only(registry: Registry) -> Iterator[None]:
    """The lock for a move of roles. Raises InputError if another command moved one while this one waited.

    The decision to move was based on what was in production before.
    """
    before = registry_state(registry.workspace)
    with registry_lock(registry):
        current = registry_state(registry.workspace)
        if current.head != before.head:
            last = read_entries(registry.workspace / AUDIT_LOG)[-1]
            got = f"{words(current.aliases)}, by {last['action']} of {last['user']} at {last['time']}"
            remedy = "see `cmb release history`, then run the command again if it still applies"
            raise InputError("registry-moved", "registry", f"{words(before.aliases)}, as when this command began", got, remedy)
        yield
