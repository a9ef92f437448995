"""deploy/ and the Dockerfile: valid by Kubernetes' own schemas, and what one file names the other has."""

from __future__ import annotations

import copy
import re
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from cmb_models import __version__
from cmb_models.serving.deploy.checksums import EXPECTED
from cmb_models.serving.run.image_check import faults
from cmb_models.serving.run.settings import VARIABLES, read_settings

ROOT = Path(__file__).parents[3]
DEPLOY, KUBERNETES = ROOT / "deploy", ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
KUBERNETES_VERSION = "1.33"  # the oldest that is meant to work; preStop.sleep is not for older ones
IMAGE = f"cmb-models-server:{__version__}"
OVERLAYS = ("gpu", "cpu", "gpu-s3")


def build(folder: Path) -> list[dict]:
    """All objects of a kustomization, as `kubectl apply -k` would send them."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl (Kubernetes' own apt repository)")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, list[dict]]:
    """The objects of each overlay, and of the GPU's with the component for S3, as a site would add it."""
    folder = tmp_path_factory.mktemp("site") / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    with_s3 = folder / "overlays/gpu-s3"
    with_s3.mkdir()
    (with_s3 / "kustomization.yaml").write_text("resources: [../gpu]\ncomponents: [../../components/s3]\n")
    return {name: build(folder / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request, built) -> list[dict]:
    return built[request.param]


def only(objects: list[dict], kind: str, name: str = "cmb-server") -> dict:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].startswith(name)]
    return found


def pod(objects) -> dict:
    return only(objects, "Deployment")["spec"]["template"]["spec"]


def environment(container: dict, objects: list[dict]) -> dict[str, str]:
    """A container's variables, those from ConfigMaps included."""
    maps = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    given = {}
    for source in container.get("envFrom", ()):
        given |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
    return given | {e["name"]: e["value"] for e in container.get("env", ())}


def test_every_object_is_valid_by_kubernetes_own_schema(objects):
    known = [o for o in objects if not o["apiVersion"].startswith("monitoring.coreos.com/")]
    assert len(known) >= 7
    for one in known:
        kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


def test_the_schema_would_notice(objects):
    wrong = copy.deepcopy(only(objects, "Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSION, strict=True)


def test_selectors_ports_volumes_and_claims_meet(objects):
    deployment, spec = only(objects, "Deployment"), pod(objects)
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        only(objects, "Service")["spec"]["selector"],
        only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(o["spec"]["podSelector"]["matchLabels"] for o in policies),
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    monitor = only(objects, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= only(objects, "Service")["metadata"]["labels"].items()
    ports = {p["name"]: p["containerPort"] for p in spec["containers"][0]["ports"]}
    service = {p["name"]: p for p in only(objects, "Service")["spec"]["ports"]}
    assert {p["targetPort"] for p in service.values()} <= set(ports)
    assert {e["port"] for e in monitor["endpoints"]} <= set(service)
    assert {spec["containers"][0][p]["httpGet"]["port"] for p in ("startupProbe", "readinessProbe", "livenessProbe")} == {"http"}
    assert ports == {n: int(VARIABLES[f"CMB_{n.upper()}_PORT"][0]) for n in ("grpc", "http", "metrics")}
    volumes = {v["name"]: v for v in spec["volumes"]}
    mounts = {m["name"] for c in (*spec["initContainers"], *spec["containers"]) for m in c["volumeMounts"]}
    assert mounts == set(volumes)
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert claims == {o["metadata"]["name"] for o in objects if o["kind"] == "PersistentVolumeClaim"}


def test_what_the_pod_is_told_is_what_the_entry_point_reads(objects, tmp_path, monkeypatch):
    spec = pod(objects)
    server, take = spec["containers"][0], spec["initContainers"][-1]
    given = environment(server, objects)
    assert set(given) <= set(VARIABLES)
    assert take["command"][:3] == ["python3", "-m", "cmb_models.serving.deploy.checksums"]
    report = environment(take, objects)
    assert {"CMB_RELEASE", EXPECTED, "CMB_REPOSITORY"} <= set(report)
    assert set(re.findall(r"\$\((\w+)\)", " ".join(take["command"]))) <= set(report)
    for name in ("tls.crt", "tls.key", "tritonserver"):
        (tmp_path / name).touch()
    paths = {"CMB_REPOSITORY": tmp_path, "CMB_TRITON": tmp_path / "tritonserver"}
    paths |= {"CMB_SERVER_CERT": tmp_path / "tls.crt", "CMB_SERVER_KEY": tmp_path / "tls.key"}
    settings = read_settings(given | {"CMB_ADDRESS": "0.0.0.0"} | {k: str(v) for k, v in paths.items()})  # it would start
    pause = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause + settings.exit_timeout_s < spec["terminationGracePeriodSeconds"]


def test_pods_are_locked_and_a_rollout_keeps_all_that_serve(objects):
    spec, strategy = pod(objects), only(objects, "Deployment")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert not spec["automountServiceAccountToken"]
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable <= {"/tmp", "/dev/shm", "/models", "/releases"}
        assert not re.search(r":latest$|/[^:]*$", container["image"])
    assert spec["containers"][0]["image"] == IMAGE
    models = next(m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "models")
    assert models["readOnly"]


def test_only_the_gpu_overlay_asks_for_a_gpu(built):
    limits = {name: pod(made)["containers"][0]["resources"]["limits"] for name, made in built.items()}
    assert {name for name, limit in limits.items() if "nvidia.com/gpu" in limit} == {"gpu", "gpu-s3"}


def test_another_release_is_another_pod_template(tmp_path):
    names = []
    for release in ("release-1", "release-2"):
        folder = tmp_path / release
        subprocess.run(["cp", "-r", str(KUBERNETES), str(folder)], check=True)
        file = folder / "base" / "kustomization.yaml"
        file.write_text(file.read_text().replace("CMB_RELEASE=release-1", f"CMB_RELEASE={release}"))
        names.append(pod(build(folder / "overlays" / "gpu"))["initContainers"][0]["envFrom"][0]["configMapRef"]["name"])
    assert names[0] != names[1]


def compose() -> dict:
    """compose.yaml with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
    return yaml.safe_load(text)


def test_compose_files_references_meet():
    made = compose()
    for name, service in made["services"].items():
        assert set(service.get("networks", ())) <= set(made["networks"]), name
        assert set(service.get("secrets", ())) <= set(made["secrets"]), name
        assert set(service.get("depends_on", ())) <= set(made["services"]), name
        named = {v.split(":")[0] for v in service.get("volumes", ()) if not v.startswith((".", "/"))}
        assert named <= set(made["volumes"]), name
        used = {s for s in made["secrets"] if f"/run/secrets/{s}" in str(service)}
        assert used <= set(service.get("secrets", ())), name
        assert re.search(r":[\w.-]*\d", service["image"]) and not service["image"].endswith(":latest"), name
    for name in ("server-gpu", "server-cpu"):
        assert {k for k in made["services"][name]["environment"] if k.startswith("CMB_")} <= set(VARIABLES)
        assert made["services"][name]["image"] == IMAGE
        stop, leave = made["services"][name]["stop_grace_period"], made["services"][name]["environment"]["CMB_EXIT_TIMEOUT_S"]
        assert int(stop.rstrip("s")) > int(leave)


def test_compose_services_are_locked_and_on_loopback():
    for name, service in compose()["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and "user" in service, name
        assert service["user"] != "0:0" or (name, service["cap_add"], service["network_mode"]) == ("s3-owner", ["CHOWN"], "none")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    assert compose()["networks"]["registry"]["internal"]


def test_secrets_are_made_once_for_every_mount(tmp_path):
    made = runpy.run_path(str(DEPLOY / "make_secrets.py"))["main"]
    folder = tmp_path / "secrets"
    assert made(folder) == 0
    wanted = {Path(s["file"]).name for s in compose()["secrets"].values()}
    first = {p.name: p.read_text() for p in folder.iterdir()}
    assert set(first) == wanted
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(
        first[name] in first["s3_identities"] and first[name] in first["rclone"] for name in ("s3_access_key", "s3_secret_key")
    )
    (folder / "admin_key").unlink()
    assert made(folder) == 0
    second = {p.name: p.read_text() for p in folder.iterdir()}
    assert {name for name in wanted if first[name] != second[name]} == {"admin_key"}
    (folder / "rclone").unlink()
    assert made(folder) == 2  # a new one would hold other keys than the store knows


def test_mlflow_reads_its_passwords_from_files_and_takes_its_own_options(tmp_path):
    start = runpy.run_path(str(DEPLOY / "mlflow" / "start.py"))
    for name, text in {"postgres_password": "a/b@c\n", "s3_access_key": "id\n", "s3_secret_key": "key"}.items():
        (tmp_path / name).write_text(text)
    assert (
        start["environment"](tmp_path)["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://mlflow:a%2Fb%40c@postgres:5432/mlflow"
    )
    done = subprocess.run([sys.executable, "-m", *start["command"](), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # options are read before --help answers only where they exist
    options = {o.split("=")[0] for o in start["command"]() if o.startswith("--")}
    assert all(option in done.stdout for option in options)


def test_the_hosts_of_a_proxy_are_a_setting_of_the_registry(monkeypatch):
    start = runpy.run_path(str(DEPLOY / "mlflow" / "start.py"))
    name = start["MORE_HOSTS"]
    monkeypatch.setenv(name, "registry.hospital.example,registry.hospital.example:8443")
    assert f"--allowed-hosts={start['HOSTS']},registry.hospital.example,registry.hospital.example:8443" in start["command"]()
    monkeypatch.setenv(name, "")
    assert f"--allowed-hosts={start['HOSTS']}" in start["command"]()
    assert compose()["services"]["mlflow"]["environment"][name] == ""


def test_versions_are_those_of_the_locks():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line)
    pinned = dict(re.findall(r"(mlflow|psycopg2-binary|boto3)==([\d.]+)", (DEPLOY / "mlflow" / "Dockerfile").read_text()))
    assert pinned == {name: lock[name] for name in pinned} and len(pinned) == 3
    assert compose()["services"]["mlflow"]["image"] == f"cmb-models-mlflow:{lock['mlflow']}"
    assert f"ARG VERSION={__version__}" in DOCKERFILE


def test_dockerfile_copies_what_is_there_and_runs_as_nobody_special():
    copied = re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE)
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
    assert copied and all((ROOT / path).exists() and path.split("/")[0] in allowed for path in copied)
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    assert 'ENTRYPOINT ["python3", "-m", "cmb_models.serving.run.entrypoint"]' in DOCKERFILE
    assert 'CMD ["python3", "-m", "cmb_models.serving.run.entrypoint", "health"]' in DOCKERFILE
    base = re.search(r"^ARG TRITON=(\S+)", DOCKERFILE, re.MULTILINE)[1]
    assert re.fullmatch(r"nvcr.io/nvidia/tritonserver:\d\d\.\d\d-py3|.*@sha256:\w{64}", base)
    assert f'base.name="{base}"' in DOCKERFILE
    used = set(re.findall(r"\b(CMB_\w+)=", DOCKERFILE))
    assert used <= set(VARIABLES)


def test_the_images_check_passes_in_the_servers_environment_and_names_what_is_missing(tmp_path):
    python = ROOT / ".venv-server" / "bin" / "python"
    code = (
        "from pathlib import Path; from cmb_models.serving.run.image_check import faults as f;"
        "print(f(None)); print(len(f(Path('/nowhere'))))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.split() == ["[]", "3"], done.stderr
    assert any("numpy" in fault for fault in faults(None))  # this environment has numpy 2 (and torch may be loaded)
