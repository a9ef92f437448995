"""deploy/ for trainings: scheduler, workers, client and Optuna's database, in Compose and Kubernetes, and their image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from urllib.parse import urlsplit

import kubernetes_validate
import pytest

from cmb_models import __version__
from tests.unit.serving.test_deploy_files import DEPLOY, KUBERNETES, KUBERNETES_VERSION, ROOT, build, compose, environment, only

TRAINING_IMAGE = f"cmb-models-training:{__version__}"


def test_compose_trains_with_one_image_on_a_network_of_its_own():
    made = compose()
    services = {name: s for name, s in made["services"].items() if {"training", "run"} & set(s.get("profiles", ()))}
    assert set(services) == {"scheduler", "worker", "optuna", "train"}
    assert {s["image"] for name, s in services.items() if name != "optuna"} == {TRAINING_IMAGE}
    assert made["networks"]["training"]["internal"] and not any("ports" in s for s in services.values())
    assert all(s["networks"] == ["training"] for name, s in services.items() if name != "train")
    assert all("memory" in s["deploy"]["resources"]["limits"] for s in services.values())
    given, database = services["train"]["environment"], services["optuna"]["environment"]
    require_addresses(given, "scheduler", services["scheduler"]["command"], "optuna", database)
    assert given["CMB_OPTUNA_PASSWORD_FILE"] == database["POSTGRES_PASSWORD_FILE"]
    assert services["worker"]["volumes"] == services["train"]["volumes"] and services["train"]["restart"] == "no"
    assert services["worker"]["command"][2] == given["CMB_SCHEDULER"]
    assert f"--nthreads={services['worker']['deploy']['resources']['limits']['cpus']}" in services["worker"]["command"]


def require_addresses(given: dict, scheduler: str, command: list[str], database: str, variables: dict) -> None:
    """The client's settings name the scheduler and the database as they are started."""
    address = urlsplit(given["CMB_SCHEDULER"])
    assert (address.hostname, f"--port={address.port}" in command) == (scheduler, True)
    url = urlsplit(given["CMB_OPTUNA_STORAGE"])
    assert (url.scheme, url.hostname, url.port, url.password) == ("postgresql+psycopg2", database, 5432, None)
    assert (url.username, url.path[1:]) == (variables["POSTGRES_USER"], variables["POSTGRES_DB"])


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> list[dict]:
    """The objects of the overlay for trainings."""
    folder = tmp_path_factory.mktemp("training") / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    return build(folder / "overlays/training")


def pods(objects: list[dict]) -> dict[str, dict]:
    """Pod templates by the name of what starts them."""
    found = {}
    for one in objects:
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one.get("spec", {})
        if "template" in spec:
            found[one["metadata"]["name"]] = spec["template"]
    return found


def test_trainings_are_valid_by_kubernetes_own_schema(training):
    assert {o["kind"] for o in training} >= {"Deployment", "StatefulSet", "CronJob", "Service", "NetworkPolicy"}
    for one in training:
        kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


def test_the_component_for_trainings_fits_next_to_the_server(training, tmp_path):
    folder = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    (folder / "overlays/both").mkdir()
    (folder / "overlays/both/kustomization.yaml").write_text("resources: [../cpu]\ncomponents: [../../components/training]\n")
    both = {(o["kind"], o["metadata"]["name"]) for o in build(folder / "overlays/both")}
    assert {(o["kind"], o["metadata"]["name"]) for o in training} < both and ("Deployment", "cmb-server") in both


def test_pods_of_a_training_are_locked_limited_and_meet(training):
    made = pods(training)
    assert set(made) == {"cmb-scheduler", "cmb-worker", "cmb-optuna", "cmb-train"}
    for name, template in made.items():
        spec, labels = template["spec"], template["metadata"]["labels"]
        assert labels == {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "cmb-training"}
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert not spec["automountServiceAccountToken"]
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == (TRAINING_IMAGE if name != "cmb-optuna" else compose()["services"]["optuna"]["image"])
        assert {"requests", "limits"} <= set(container["resources"]) and "memory" in container["resources"]["limits"]
        claimed = {v["name"] for v in spec["volumes"]} | ({"data"} if name == "cmb-optuna" else set())
        assert {m["name"] for m in container["volumeMounts"]} == claimed
    claims = {v["persistentVolumeClaim"]["claimName"] for t in made.values() for v in t["spec"]["volumes"] if len(v) > 1 and
              "persistentVolumeClaim" in v}  # fmt: skip
    assert claims == {o["metadata"]["name"] for o in training if o["kind"] == "PersistentVolumeClaim"}


def test_a_training_finds_scheduler_database_and_password(training):
    made = {name: template["spec"]["containers"][0] for name, template in pods(training).items()}
    given, database = environment(made["cmb-train"], training), environment(made["cmb-optuna"], training)
    require_addresses(given, "cmb-scheduler", made["cmb-scheduler"]["args"], "cmb-optuna", database)
    assert given["CMB_OPTUNA_PASSWORD_FILE"] == database["POSTGRES_PASSWORD_FILE"]
    for name in ("cmb-train", "cmb-optuna"):
        (mount,) = [m for m in made[name]["volumeMounts"] if m["name"] == "password"]
        assert mount["readOnly"] and given["CMB_OPTUNA_PASSWORD_FILE"] == f"{mount['mountPath']}/password"
    worker = environment(made["cmb-worker"], training)
    assert made["cmb-worker"]["args"][2] == given["CMB_SCHEDULER"]
    assert "--nthreads=$(CMB_WORKER_THREADS)" in made["cmb-worker"]["args"]
    assert worker["CMB_WORKER_THREADS"] == made["cmb-worker"]["resources"]["limits"]["cpu"]
    where = {name: m["mountPath"] for name, c in made.items() for m in c["volumeMounts"] if m["name"] == "workspace"}
    assert where == {"cmb-worker": "/workspace", "cmb-train": "/workspace"}
    services = {o["metadata"]["name"]: o["spec"] for o in training if o["kind"] == "Service"}
    for name in ("cmb-scheduler", "cmb-optuna"):
        assert services[name]["selector"] == {"app.kubernetes.io/name": name}
        assert services[name]["ports"][0]["targetPort"] == made[name]["ports"][0]["name"]


def test_only_a_trainings_pods_reach_each_other(training):
    policies = {o["metadata"]["name"]: o["spec"] for o in training if o["kind"] == "NetworkPolicy"}
    everyone = {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "cmb-training"}}}
    assert policies["cmb-training"]["podSelector"] == everyone["podSelector"]
    assert policies["cmb-training"]["ingress"] == [{"from": [everyone]}]
    assert set(policies["cmb-training"]["policyTypes"]) == {"Ingress", "Egress"}
    assert policies["cmb-train"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "cmb-train"}


def test_no_training_starts_by_itself(training):
    assert only(training, "CronJob", "cmb-train")["spec"]["suspend"] is True


def test_commands_of_the_training_image_exist(training):
    """Each with its options, which are read before --help answers only where they exist."""
    started = [c["args"] for c in (t["spec"]["containers"][0] for t in pods(training).values()) if "args" in c]
    started += [compose()["services"][name]["command"] for name in ("scheduler", "worker", "train")]
    assert len(started) == 6
    for command in started:
        words = [word.replace("$(CMB_WORKER_THREADS)", "4") for word in command]
        done = subprocess.run([sys.executable, "-m", *words, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)


def test_the_training_image_hands_the_password_to_libpq(tmp_path, monkeypatch):
    start = str(DEPLOY / "training" / "start.py")
    show = ["printenv", "PGPASSWORD"]
    (tmp_path / "password").write_text("a/b@c\n")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with_file = os.environ | {"CMB_OPTUNA_PASSWORD_FILE": str(tmp_path / "password")}
    assert subprocess.run([sys.executable, start, *show], env=with_file, capture_output=True, text=True).stdout == "a/b@c\n"
    assert subprocess.run([sys.executable, start, *show], capture_output=True, text=True).returncode == 1
    done = subprocess.run([sys.executable, start], capture_output=True, text=True)
    assert done.returncode == 1 and "expected a command" in done.stderr and "Traceback" not in done.stderr


def test_the_training_image_has_what_it_copies_and_the_pinned_packages():
    dockerfile = (DEPLOY / "training" / "Dockerfile").read_text()
    ignored = (DEPLOY / "training" / "Dockerfile.dockerignore").read_text().split()
    copied = [source for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE) for source in line.split()[:-1]]
    assert copied and all((ROOT / source).exists() and f"!{source}" in ignored for source in copied)
    installs = re.findall(r"^RUN pip install (.+)$", dockerfile, re.MULTILINE)
    assert len(installs) == 2 and all("-c /tmp/requirements.lock" in line for line in installs)
    (extras,) = re.findall(r"/opt/cmb\[([\w,]+)\]", dockerfile)
    with (ROOT / "pyproject.toml").open("rb") as stream:
        assert set(extras.split(",")) <= set(tomllib.load(stream)["project"]["optional-dependencies"])
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["1000:1000"]
