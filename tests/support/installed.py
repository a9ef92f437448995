"""The wheel in an environment of its own, whose processes log which files of the checkout they open.

The environment's packages are those of the running one, without its editable install of this project.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.imports import ROOT

# Every Python process of the environment logs which files of the checkout it opens, and finds no module named in WITHOUT.
SITECUSTOMIZE = """
import os, sys
CHECKOUT, PACKAGES, LOG = {checkout!r}, {packages!r}, {log!r}

def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        path = os.path.join(os.path.abspath(os.fsdecode(arguments[0])), "")
        if path.startswith(CHECKOUT) and not path.startswith(PACKAGES):
            with open(LOG, "a") as stream:
                stream.write(path + chr(10))

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["WITHOUT"].split():
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.addaudithook(note)
if "WITHOUT" in os.environ:
    sys.meta_path.insert(0, Without())
"""


class Installed:
    """An environment with the wheel of this checkout, and an empty folder to work in. `opened` lists what was opened."""

    def __init__(self, folder: Path) -> None:
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder / "dist"), str(ROOT)]
        done = subprocess.run(build, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (self.wheel,) = (folder / "dist").glob("*.whl")
        self.environment, self.folder, self.opened = folder / "environment", folder / "work", folder / "opened.txt"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.environment)], check=True)
        self.python = self.environment / "bin/python"
        install = ["install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", str(self.wheel)]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(self.python), *install], check=True)
        (self.packages,) = self.environment.glob("lib/python*/site-packages")
        # A folder that a .pth file names comes after the environment's own, and its own .pth files are not read.
        borrowed = sysconfig.get_path("purelib")
        (self.packages / "borrowed.pth").write_text(f"{borrowed}\n")
        hooks = SITECUSTOMIZE.format(checkout=f"{ROOT}/", packages=f"{borrowed}/", log=str(self.opened))
        (self.packages / "sitecustomize.py").write_text(hooks)

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables with which commands are the installed ones."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI")}
        programs = (self.environment / "bin", Path(sys.executable).parent)  # the second for dvc and other packages' commands
        return kept | {"PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]])}

    def run(self, *command: str, folder: str = ".", without: str = "") -> str:
        """Run a command below the empty folder; its output. without: names of modules that are hidden."""
        variables = self.variables | ({"WITHOUT": without} if without else {})
        done = subprocess.run(command, cwd=self.folder / folder, env=variables, text=True, capture_output=True)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout
