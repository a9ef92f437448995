"""The observed state of a server, and its model control: load and unload."""

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
QUERY_S = 20.0
DRAIN_S = 120.0  # for requests that still run in a version being unloaded


@dataclass(frozen=True)
class ObservedState:
    """What a server has ready. pins: by ensemble; resident: models by release, without ensembles."""

    pins: Mapping[str, Pin]
    resident: Mapping[int, frozenset[str]]

    @property
    def pinned(self) -> set[int]:
        """Releases that an ensemble runs."""
        return {pin.release for pin in self.pins.values()}

    def has(self, release: int, models: Iterable[str]) -> bool:
        """Whether these models are resident for a release."""
        return set(models) <= self.resident.get(release, frozenset())


class Admin:
    """A connection for model control; CMB_ADMIN_KEY authorizes it on a server that restricts these calls."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = connect(url)
        self._headers = admin_headers()

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def observed(self) -> ObservedState:
        """The server's current state. Raises InputError if it cannot be reached."""
        index = self._index()
        pins = {name: pin for name in ENSEMBLES if "READY" in index.get(name, {}).values() and (pin := self._pin(name))}
        resident: dict[int, set[str]] = {}
        for model in MODELS:
            for version, state in index.get(model, {}).items():
                if state == "READY":
                    resident.setdefault(version, set()).add(model)
        return ObservedState(pins, {version: frozenset(models) for version, models in resident.items()})

    def load(self, config: dict) -> None:
        """Load a model with a configuration. Raises InputError on failure; the server then keeps what it had."""
        try:
            self._client.load_model(config["name"], config=json.dumps(config), headers=self._headers, client_timeout=LOAD_S)
        except InferenceServerException as error:
            remedy = "the server keeps its release; read its log and export the bundle again"
            raise self._error(error, f"model {config['name']}", "files that the server can load", remedy) from error

    def unload(self, name: str) -> None:
        """Unload a model, if loaded."""
        try:
            self._client.unload_model(name, headers=self._headers, client_timeout=LOAD_S)
        except InferenceServerException as error:
            raise self._error(error, f"model {name}", "a server that unloads it", "read the server's log") from error

    def drain(self) -> None:
        """Wait until no version is unloading, so that all its requests were answered. Raises InputError after DRAIN_S."""
        deadline = time.monotonic() + DRAIN_S
        while "UNLOADING" in (states := {s for versions in self._index().values() for s in versions.values()}):
            if time.monotonic() > deadline:
                raise InputError(
                    "server-timeout",
                    self.url,
                    f"versions unloaded within {DRAIN_S:g} s",
                    f"{sorted(states)}",
                    "read the server's log",
                )
            time.sleep(0.05)

    def _index(self) -> dict[str, dict[int, str]]:
        """State by version of every model that the server knows."""
        try:
            models = self._client.get_model_repository_index(headers=self._headers, client_timeout=QUERY_S).models
        except InferenceServerException as error:
            remedy = "start one with `cmb server run`, or correct --server"
            raise self._error(error, self.url, "a server that lists its models", remedy) from error
        index: dict[str, dict[int, str]] = {}
        for model in models:
            if model.version:
                index.setdefault(model.name, {})[int(model.version)] = model.state
        return index

    def _pin(self, ensemble: str) -> Pin | None:
        """The pin in an ensemble's configuration; None if it is not ready (any more)."""
        with contextlib.suppress(InferenceServerException):
            config = self._client.get_model_config(ensemble, headers=self._headers, client_timeout=QUERY_S).config
            values = {key: value.string_value for key, value in config.parameters.items()}
            pin = Pin(int(values.get("release") or 0), values.get("manifest_sha256", ""), values.get("steps_sha256", ""))
            if {step.model_version for step in config.ensemble_scheduling.step} == {pin.release}:
                return pin
        return None

    def _error(self, error: InferenceServerException, case: str, expected: str, remedy: str) -> InputError:
        got = " ".join((error.message() or str(error)).split())[:500]
        if "is not allowed" in got:
            expected, got = "a server with explicit model control", "one whose repository is read-only"
            remedy = "export another with `cmb server export` and restart the server on it"
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
