"""A site's workspace: created whole, upgraded without losing what the site changed."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import yaml

from cmb_models.config.params import load_params
from cmb_models.files import write_text
from cmb_models.workspace import template as module
from cmb_models.workspace.code_lock import read_lock
from cmb_models.workspace.template import create, relock, template, upgrade
from cmb_models.workspace.versioning import require_clean
from tests.support.refused import refused


@pytest.fixture
def site(tmp_path):
    create(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def newer(monkeypatch):
    """Makes the installed template a newer one: replaces `old` by `new` in a file."""
    current = template()

    def change(name, old, new):
        path = next(p for p in current if str(p) == name)
        assert old in current[path]
        current[path] = current[path].replace(old, new)
        monkeypatch.setattr(module, "template", lambda: current)

    return change


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_new_workspace_is_whole(site):
    load_params(site / "params.yaml")
    stages = yaml.safe_load((site / "dvc.yaml").read_text())["stages"]
    assert {p.stem for p in (site / "pipelines").glob("*.py")} == set(stages) == set(read_lock(site).stages)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=site, check=True, capture_output=True, text=True).stdout
    assert all(line.startswith("A  ") for line in status.splitlines()), status
    assert "code.lock" in status and ".dvc/config" in status
    done = subprocess.run(["git", "check-ignore", "data/prepared", "mlflow.db"], cwd=site, capture_output=True, text=True)
    assert done.stdout.split() == ["data/prepared", "mlflow.db"]


WRITTEN = ("evidence/7/index.json", "results/detections.csv", "reports/compare.html", "shadow.jsonl", "releases/1-ab/unet.onnx")


def test_what_documented_commands_write_does_not_make_the_next_registration_refuse(site):
    """An evidence folder, for instance, before `cmb release register`, which needs a clean tree."""
    commit = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "Create workspace")
    subprocess.run(commit, cwd=site, check=True)
    for name in WRITTEN:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("{}")
    require_clean(site)
    (site / "notes.txt").write_text("mine")
    with refused("git-dirty", got=r"changes in notes\.txt$"):
        require_clean(site)


def test_dvc_finds_the_scans_of_a_workspace(site, tmp_path):
    """An ignore pattern that covers data/raw itself hides its .dvc files from DVC: gc deletes the scans, push leaves them out."""

    def dvc(*arguments, folder=site):
        command = [sys.executable, "-m", "dvc", *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)

    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=site, check=True, capture_output=True)

    scan = site / "data/raw/site/scan.nii"
    scan.parent.mkdir()
    scan.write_text("a scan")
    dvc("add", "-q", "data/raw/site")
    dvc("remote", "add", "-q", "-d", "backup", str(tmp_path / "remote"))
    git("add", "-A")
    git("commit", "-qm", "Add scans")
    dvc("gc", "-q", "-w", "-f")
    dvc("push", "-q")
    subprocess.run(["git", "clone", "-q", str(site), str(tmp_path / "clone")], check=True)
    dvc("pull", "-q", "data/raw/site.dvc", folder=tmp_path / "clone")
    assert (tmp_path / "clone/data/raw/site/scan.nii").read_text() == "a scan"
    # All that there is to pull but the outputs of stages that have not run.
    assert (
        "data/raw/site.dvc"
        in subprocess.run(
            [sys.executable, "-m", "dvc", "stage", "list", "--all", "--name-only"],
            cwd=site,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


def test_a_folder_with_data_in_it_becomes_a_workspace(tmp_path):
    (tmp_path / "data/raw/site").mkdir(parents=True)
    (tmp_path / "data/raw/site/annotations.csv").write_text("mine")
    (tmp_path / ".gitignore").write_text("/notes/\n")
    create(tmp_path)
    assert (tmp_path / "data/raw/site/annotations.csv").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text().startswith("/notes/\n__pycache__/")


def test_nothing_is_overwritten(site, tmp_path):
    with refused("folder-taken"):
        create(site)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/params.yaml").write_text("mine: 1")
    with refused("folder-taken"):
        create(tmp_path / "other")
    assert (tmp_path / "other/params.yaml").read_text() == "mine: 1" and not (tmp_path / "other/dvc.yaml").exists()


def test_an_upgrade_keeps_the_sites_values_and_takes_the_templates(site, newer):
    edit(site / "params.yaml", "steps: 600 ", "steps: 800 ")
    edit(site / "params.yaml", "folds: 3", "folds: 5")
    newer("params.yaml", "folds: 3", "folds: 4")  # both changed it: the site's stays
    newer("params.yaml", "min_scans: 3", "min_scans: 5")
    done = upgrade(site)
    params = load_params(site / "params.yaml")
    assert (params.unet.steps, params.split.folds, params.ingest.min_scans) == (800, 5, 5)
    shown = "\n".join(done.differences.values())
    assert "+  min_scans: 5" in shown and "folds" not in shown.replace(" folds: 5", "")
    assert upgrade(site).differences == {}


@pytest.mark.parametrize("of_site", ["", "/evidence/\n/mine/\n"])
def test_an_upgrade_adds_the_patterns_that_git_ignores_by_now(site, of_site):
    """Also where the site added its own at the same place."""
    new = (site / ".gitignore").read_text()
    old = new.replace("/evidence/\n", "").replace("/check.html\n", "")
    (site / ".cmb/template/.gitignore").write_text(old)
    (site / ".gitignore").write_text(old.replace("/shadow*.jsonl\n", f"{of_site}/shadow*.jsonl\n"))
    upgrade(site)
    lines = (site / ".gitignore").read_text().splitlines()
    assert set(lines) == {*new.splitlines(), *of_site.splitlines()}
    assert lines.index("/data/?*") < lines.index("!/data/raw/") < lines.index("/data/raw/?*") < lines.index("!/data/raw/*.dvc")


def test_an_upgrade_that_clashes_in_code_changes_nothing(site, newer):
    edit(site / "pipelines/split.py", "def main() -> None:", "def main() -> None:  # ours")
    newer("pipelines/split.py", "def main() -> None:", "def main() -> None:  # theirs")
    newer("params.yaml", "min_scans: 3", "min_scans: 5")
    before = {p: p.read_bytes() for p in site.rglob("*") if p.is_file() and ".git/" not in str(p)}
    with refused("upgrade-conflict", got=r"pipelines/split\.py"):
        upgrade(site)
    assert {p: p.read_bytes() for p in site.rglob("*") if p.is_file() and ".git/" not in str(p)} == before


def test_a_script_that_the_template_no_longer_has_is_removed_unless_the_site_changed_it(site, monkeypatch):
    fewer = {name: text for name, text in template().items() if str(name) != "pipelines/report.py"}
    monkeypatch.setattr(module, "template", lambda: fewer)
    edit(site / "pipelines/report.py", "def main() -> None:", "def main() -> None:  # ours")
    with refused("upgrade-conflict", got=r"pipelines/report\.py"):
        upgrade(site)
    edit(site / "pipelines/report.py", "def main() -> None:  # ours", "def main() -> None:")
    assert "-def main() -> None:" in "\n".join(upgrade(site).differences.values())
    assert not (site / "pipelines/report.py").exists() and upgrade(site).differences == {}


def test_a_changed_value_of_a_renamed_key_is_named(site):
    """As if an older template had called it so, and the site had changed it."""
    edit(site / ".cmb/template/params.yaml", "min_scans: 3", "least_scans: 3")
    edit(site / "params.yaml", "min_scans: 3", "least_scans: 4")
    before = (site / "params.yaml").read_text()
    with refused("upgrade-conflict", case=r"params\.yaml", got="least_scans"):
        upgrade(site)
    assert (site / "params.yaml").read_text() == before


def test_an_upgrade_names_the_code_that_changed_and_the_stages_it_makes_stale(site):
    edit(site / "code.lock", f"split: {read_lock(site).stages['split']}", "split: 0123456789abcdef")
    edit(site / "code.lock", read_lock(site).modules["cmb_models.dataset.split"], "0" * 16)
    edit(site / "code.lock", "library: ", "library: 0.0.1+")
    done = upgrade(site)
    assert done.code.stages == ("split",) and done.code.modules == ("cmb_models.dataset.split",)
    assert done.library.startswith("0.0.1")
    assert not relock(site).code


def test_an_upgrade_outside_of_a_workspace_is_refused(tmp_path):
    with refused("workspace-missing"):
        upgrade(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_site_change_does_not_hide_the_templates_change_of_the_next_line(site, newer):
    edit(site / "params.yaml", "  folds: 3", "  folds: 5")
    lines = (site / "params.yaml").read_text().splitlines()
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("  folds: 5")) + 1]
    newer("params.yaml", below, f"{below}  # of the template")
    upgrade(site)
    text = (site / "params.yaml").read_text()
    assert "  folds: 5" in text and f"{below}  # of the template" in text


def test_an_upgrade_holds_out_the_same_subjects(site, newer):
    """Other values of the split would test later releases on subjects that earlier ones were trained on."""
    newer("params.yaml", "locked_fraction: 0.3 ", "locked_fraction: 0.5 ")
    newer("params.yaml", "  folds: 3", "  folds: 4")
    newer("params.yaml", "  min_scans: 3", "  min_scans: 4")
    upgrade(site)
    params = load_params(site / "params.yaml")
    assert (params.split.locked_fraction, params.split.folds, params.ingest.min_scans) == (0.3, 3, 4)


def test_a_value_that_a_moved_key_would_hide_is_named(site, newer):
    """YAML keeps the last of two equal keys."""
    edit(site / "params.yaml", "  folds: 3", "  folds: 5")
    newer("params.yaml", "  folds: 3\n", "")
    newer("params.yaml", "  locked_fraction:", "  folds: 3\n  locked_fraction:")
    before = (site / "params.yaml").read_text()
    with refused("upgrade-conflict", case=r"params\.yaml", got=r"split\.folds"):
        upgrade(site)
    assert (site / "params.yaml").read_text() == before


def test_a_deleted_file_stays_deleted_unless_the_template_changed_it(site, newer):
    (site / "pipelines/report.py").unlink()
    upgrade(site)
    assert not (site / "pipelines/report.py").exists()
    newer("pipelines/report.py", "def main() -> None:", "def main() -> None:  # theirs")
    with refused("upgrade-conflict", got=r"report\.py \(deleted\)"):
        upgrade(site)


def test_windows_line_ends_alone_change_nothing(site):
    for name in ("params.yaml", "dvc.yaml", "pipelines/split.py"):
        (site / name).write_bytes((site / name).read_bytes().replace(b"\n", b"\r\n"))
    before = (site / "params.yaml").read_bytes()
    changes = upgrade(site)
    assert not changes.differences and not changes.code and (site / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("params.yaml", b"# Schl\xfcssel\n", "workspace-damaged"),
        ("pipelines/split.py", b"# Schl\xfcssel\n", "workspace-damaged"),
        ("pipelines/split.py", b"def (\n", "workspace-damaged"),
        ("dvc.yaml", b"  x: [\n", "workspace-damaged"),
        ("dvc.yaml", None, "workspace-missing"),
        ("params.yaml", None, "file-not-found"),
        ("code.lock", None, "code-lock-damaged"),
    ],
)
def test_an_upgrade_names_the_file_that_it_cannot_read(site, name, content, code):
    file = site / name
    file.unlink() if content is None else file.write_bytes(file.read_bytes() + content)
    with refused(code):
        upgrade(site)


@pytest.mark.parametrize("content", [None, "<<<<<<< HEAD\n"], ids=["missing", "conflict markers"])
def test_a_lost_code_lock_is_written_again(site, content):
    before = (site / "code.lock").read_text()
    (site / "code.lock").unlink() if content is None else (site / "code.lock").write_text(content + before)
    assert relock(site).library == ""
    assert (site / "code.lock").read_text() == before


@contextlib.contextmanager
def killed_after(writes, monkeypatch):
    """Ends the block by KeyboardInterrupt when it writes one file more than `writes`."""
    done = iter(range(writes))

    def write(path, text):
        if next(done, None) is None:
            raise KeyboardInterrupt
        write_text(path, text)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(module, "write_text", write)
        yield


def test_a_creation_that_was_killed_is_completed(tmp_path, monkeypatch):
    for writes in range(0, 40, 6):
        folder = tmp_path / f"site{writes}"
        with killed_after(writes, monkeypatch):
            create(folder)
        if not (folder / "code.lock").exists():
            create(folder)
        assert (folder / ".gitignore").read_text().count("__pycache__/") == 1
        assert upgrade(folder).differences == {}


def test_an_upgrade_that_was_killed_is_completed(site, newer, monkeypatch):
    edit(site / "params.yaml", "steps: 600 ", "steps: 800 ")
    newer("params.yaml", "min_scans: 3", "min_scans: 5")
    newer("pipelines/split.py", "def main() -> None:", "def main() -> None:  # theirs")
    for allowed in range(4):
        with killed_after(allowed, monkeypatch):
            upgrade(site)
    upgrade(site)
    params = load_params(site / "params.yaml")
    assert (params.unet.steps, params.ingest.min_scans) == (800, 5)
    assert "# theirs" in (site / "pipelines/split.py").read_text()


def test_an_ignore_file_without_a_last_line_end_is_extended(tmp_path):
    (tmp_path / ".gitignore").write_text("/notes/")
    create(tmp_path)
    assert (tmp_path / ".gitignore").read_text().startswith("/notes/\n__pycache__/")


def test_a_file_is_no_folder_for_a_workspace(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("folder-not-writable"):
        create(tmp_path / "file")


def test_two_creations_at_once_make_one_workspace(tmp_path):
    command = [sys.executable, "-c", "from cmb_models.cli import main; main()", "init", str(tmp_path / "site")]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert sorted(process.wait() for process in both) == [0, 2]
    assert (tmp_path / "site/.gitignore").read_text().count("__pycache__/") == 1


def test_missing_programs_are_named_before_anything_is_written(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "find_spec", lambda name: None)
        with refused("package-missing"):
            create(tmp_path / "site")
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused("program-missing"):
        create(tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["a [/bold] x", "ü mit leer"])
def test_the_next_steps_name_any_folder_as_a_shell_reads_it(tmp_path, name):
    code = "from cmb_models.cli import main; main()"
    command = [sys.executable, "-c", code, "init", name]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert f"cd '{name}'" in process.stdout
