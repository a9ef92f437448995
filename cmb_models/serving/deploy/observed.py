"""Asking one server what it has loaded, and telling it to load and unload."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tritonclient.utils import InferenceServerException

from cmb_models.client.connection import admin_headers, connect
from cmb_models.errors import InputError
from cmb_models.serving.triton.repository import ENSEMBLES, Pin
from cmb_models.serving.triton.step import MODELS

LOAD_S = 300.0  # a GPU server builds its plans while loading
ASK_S = 20.0
DRAIN_S = 120.0  # how long requests may still run in a version that is going


@dataclass(frozen=True)
class ObservedState:
    """What a server has ready. pins: what each ensemble runs; resident: models by release, ensembles left out."""

    pins: Mapping[str, Pin]
    resident: Mapping[int, frozenset[str]]

    @property
    def pinned(self) -> set[int]:
        """Releases that some ensemble runs."""
        return {pin.release for pin in self.pins.values()}

    def has(self, release: int, models: Iterable[str]) -> bool:
        """Whether these models are resident for a release."""
        return set(models) <= self.resident.get(release, frozenset())


class Admin:
    """A connection for loading and unloading; $CMB_ADMIN_KEY opens a server that restricts these calls to holders of its key."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = connect(url)
        self._headers = admin_headers()

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def observed(self) -> ObservedState:
        """What the server has ready now. Raises InputError when it cannot be asked."""
        index = self._index()
        pins = {name: pin for name in ENSEMBLES if "READY" in index.get(name, {}).values() and (pin := self._pin(name))}
        resident: dict[int, set[str]] = {}
        for model in MODELS:
            for version, state in index.get(model, {}).items():
                if state == "READY":
                    resident.setdefault(version, set()).add(model)
        return ObservedState(pins, {version: frozenset(models) for version, models in resident.items()})

    def load(self, config: dict) -> None:
        """Load a model with the configuration given. Raises InputError when it cannot be; the server goes on with what it had."""
        try:
            self._client.load_model(config["name"], config=json.dumps(config), headers=self._headers, client_timeout=LOAD_S)
        except InferenceServerException as error:
            remedy = "the server keeps its release; read its log and export the bundle again"
            raise self._told(error, f"model {config['name']}", "files that the server can load", remedy) from error

    def unload(self, name: str) -> None:
        """Unload a model; nothing happens when it is not loaded."""
        try:
            self._client.unload_model(name, headers=self._headers, client_timeout=LOAD_S)
        except InferenceServerException as error:
            raise self._told(error, f"model {name}", "a server that unloads it", "read the server's log") from error

    def drain(self) -> None:
        """Return when no version is going any more: its last request has been answered. Raises InputError if that takes long."""
        deadline = time.monotonic() + DRAIN_S
        while "UNLOADING" in (states := {s for versions in self._index().values() for s in versions.values()}):
            if time.monotonic() > deadline:
                raise InputError(
                    "server-timeout",
                    self.url,
                    f"versions that go within {DRAIN_S:g} s",
                    f"{sorted(states)}",
                    "read the server's log",
                )
            time.sleep(0.05)

    def _index(self) -> dict[str, dict[int, str]]:
        """State of every version of every model that the server knows of."""
        try:
            models = self._client.get_model_repository_index(headers=self._headers, client_timeout=ASK_S).models
        except InferenceServerException as error:
            remedy = "start one with `cmb server run`, or correct --server"
            raise self._told(error, self.url, "a server that tells what it has loaded", remedy) from error
        index: dict[str, dict[int, str]] = {}
        for model in models:
            if model.version:
                index.setdefault(model.name, {})[int(model.version)] = model.state
        return index

    def _pin(self, ensemble: str) -> Pin | None:
        """What an ensemble is pinned to by its own configuration; None when it is not ready (any more)."""
        with contextlib.suppress(InferenceServerException):
            config = self._client.get_model_config(ensemble, headers=self._headers, client_timeout=ASK_S).config
            told = {key: value.string_value for key, value in config.parameters.items()}
            pin = Pin(int(told.get("release") or 0), told.get("manifest_sha256", ""), told.get("steps_sha256", ""))
            if {step.model_version for step in config.ensemble_scheduling.step} == {pin.release}:
                return pin
        return None

    def _told(self, error: InferenceServerException, case: str, expected: str, remedy: str) -> InputError:
        got = " ".join((error.message() or str(error)).split())[:500]
        if "is not allowed" in got:
            expected, got = "a server that may be told what to load", "one whose repository is read-only"
            remedy = "write another by `cmb server export` and restart the server on it"
        elif "restricted" in got:
            remedy = "set CMB_ADMIN_KEY to the server's key"
        elif "UNAVAILABLE" in str(error.status()) and "load" not in got:
            return InputError(
                "server-unreachable",
                self.url,
                "a server that answers",
                "no connection",
                "start one with `cmb server run`, or correct --server",
            )
        return InputError("server-refused-release", case, expected, got, remedy)
