"""One change of a registry at a time."""

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
    """One change of the registry at a time in a workspace: waits for the other. A killed holder's lock ends with it."""
    file = registry.workspace / STATE_DIR / "registry.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(file):
        yield


@contextmanager
def first_only(registry: Registry) -> Iterator[None]:
    """The lock for whoever moves a release; refused with InputError when somebody else moved one while this command waited.

    Whoever decided on a move decided it for what was in production then.
    """
    before = registry_state(registry.workspace)
    with registry_lock(registry):
        now = registry_state(registry.workspace)
        if now.head != before.head:
            last = read_entries(registry.workspace / AUDIT_LOG)[-1]
            got = f"{words(now.aliases)}, by {last['action']} of {last['user']} at {last['time']}"
            remedy = "somebody was faster: look at `cmb release history`, then run the command again if it is still wanted"
            raise InputError("registry-moved", "registry", f"{words(before.aliases)}, as when this command began", got, remedy)
        yield
