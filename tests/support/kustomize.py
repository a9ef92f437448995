"""The part of `kubectl kustomize` that deploy/kubernetes uses, so that what a cluster would be given can be looked at. What is not
known here is an error: a file that needs more fails its test instead of being half understood."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "patches"}
CLUSTER_WIDE = ("Namespace",)


def build(folder: Path) -> list[dict]:
    """All objects of a kustomization, in order."""
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(settings) - KNOWN
    assert not unknown, f"{folder}: {unknown}"
    objects = []
    for name in settings.get("resources", ()):
        path = folder / name
        objects += build(path) if path.is_dir() else [o for o in yaml.safe_load_all(path.read_text()) if o]
    for name in settings.get("components", ()):
        apply(folder / name, objects)
    return finish(folder, settings, objects)


def apply(component: Path, objects: list[dict]) -> None:
    """Add a component's resources to `objects` and patch them."""
    settings = yaml.safe_load((component / "kustomization.yaml").read_text())
    assert settings["kind"] == "Component" and set(settings) <= KNOWN, component
    for name in settings.get("resources", ()):
        objects += [o for o in yaml.safe_load_all((component / name).read_text()) if o]
    finish(component, settings, objects)


def finish(folder: Path, settings: dict, objects: list[dict]) -> list[dict]:
    for one in settings.get("patches", ()):
        target = one["target"]
        found = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (target["kind"], target["name"])]
        assert len(found) == 1, f"{folder}: {target} matches {len(found)} objects"
        patch = yaml.safe_load(one["patch"])
        if isinstance(patch, dict):
            assert patch["$patch"] == "delete", f"{folder}: only whole objects are deleted by merging"
            objects.remove(found[0])
        else:
            for operation in patch:
                change(found[0], operation)
    for generated in settings.get("configMapGenerator", ()):
        generate(generated, objects)
    if "namespace" in settings:
        for o in objects:
            if o["kind"] not in CLUSTER_WIDE:
                o["metadata"]["namespace"] = settings["namespace"]
    return objects


def change(document: dict, operation: dict) -> None:
    """One operation of RFC 6902: add, replace or remove, at a place that must be there (but for what is added)."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].lstrip("/").split("/"))
    place = document
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    kind, key = operation["op"], int(last) if isinstance(place, list) else last
    assert kind in ("add", "replace", "remove"), operation
    if kind != "add":
        place[key]
    if kind == "remove":
        del place[key]
    elif kind == "add" and isinstance(place, list):
        place.insert(key, operation["value"])
    else:
        place[key] = operation["value"]


def generate(settings: dict, objects: list[dict]) -> None:
    """A ConfigMap under a name that changes with its content, and that name wherever the plain one stood."""
    data = dict(literal.split("=", 1) for literal in settings["literals"])
    name = f"{settings['name']}-{hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]}"
    renamed = json.loads(json.dumps(objects), object_hook=lambda o: o | {"name": name} if o == {"name": settings["name"]} else o)
    objects[:] = [*renamed, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}]
