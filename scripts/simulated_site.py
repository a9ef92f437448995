"""A site that is played: its workspace, made and filled by the commands that a site would type. Used by demo.py and base.py.

Every step sees for itself whether it is done, so that a script that was stopped can be run again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from cmb_models.files import write_text

CHECKOUT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
ENVIRONMENT.pop("MLFLOW_TRACKING_URI", None)  # simulated models do not belong in a site's own registry
USER = ("-c", "user.name=demo site", "-c", "user.email=site@example.org")
console = Console(highlight=False)


@dataclass(frozen=True)
class SimulatedSite:
    """folder: of the workspace. script: what runs, for messages."""

    folder: Path
    script: str

    def run(self, *command: str, quiet: bool = False, cwd: Path | None = None) -> str:
        """Show and run a command in the workspace; its failure ends the script with its own words. Returns its output if `quiet`.

        Quiet commands are short; their output is printed when they are done.
        """
        console.print(f"[bold cyan]$ {shlex.join(command)}[/]", soft_wrap=True)
        stdout = subprocess.PIPE if quiet else None
        done = subprocess.run(command, cwd=cwd or self.folder, env=ENVIRONMENT, text=True, stdout=stdout)
        if done.returncode:
            ended = f"`{shlex.join(command)}` ended with exit code {done.returncode}"
            console.print(f"[bold red]{self.script} stopped:[/] {ended}", soft_wrap=True)
            sys.exit(done.returncode)
        if quiet:
            console.print(done.stdout.rstrip(), markup=False)
        return done.stdout or ""

    def git(self, *arguments: str) -> str:
        """git in the workspace, unseen, as the site's user."""
        return subprocess.run(["git", *USER, *arguments], cwd=self.folder, check=True, text=True, capture_output=True).stdout

    def commit(self, message: str, *paths: str) -> None:
        """Commit `paths` if they changed."""
        if paths:
            self.git("add", *paths)
        if self.git("diff", "--cached", "--name-only").strip():
            console.print(f"[bold cyan]$ git commit -m {shlex.quote(message)}[/]")
            self.git("commit", "-q", "-m", message)

    def create(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Create the workspace with `cmb init`, or bring an earlier one up to the checkout's code.

        settings: values of params.yaml other than shipped, by section.
        """
        if not (self.folder / "dvc.yaml").exists():
            self.run("cmb", "init", str(self.folder), cwd=CHECKOUT)
            self.commit("Create workspace")
        else:
            self.run("cmb", "init", "--upgrade", str(self.folder), cwd=CHECKOUT)
        self.set(settings)
        self.commit("Upgrade, and settings", "-u")

    def set(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Write settings to params.yaml, unless they stand there."""
        file = self.folder / "params.yaml"
        params = yaml.safe_load(file.read_text(encoding="utf-8"))
        if any(params[section] != params[section] | values for section, values in settings.items()):
            for section, values in settings.items():
                params[section] |= values
            write_text(file, yaml.safe_dump(params, sort_keys=False))

    def simulate(self, datasets: Mapping[str, Sequence[str]]) -> None:
        """Simulate the site's scans and put them under DVC. datasets: options of `cmb simulate` by name."""
        for name, options in datasets.items():
            folder = f"data/raw/{name}"
            if not (self.folder / folder / "annotations.csv").is_file():
                self.run("cmb", "simulate", folder, *options)
            if not (self.folder / f"{folder}.dvc").is_file():
                self.run("dvc", "add", "-q", folder)
        self.commit("Scans of the site and locked scans", "data/raw/*.dvc")

    def train(self) -> None:
        """Run all stages and commit their figures."""
        self.run("dvc", "repro")
        self.commit("Train", "dvc.lock", "reports/*/metrics.json", "locked_evaluations.jsonl")
