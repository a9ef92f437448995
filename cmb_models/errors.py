"""The one exception for what a caller got wrong, and its codes: programs go by the code, people by the sentence."""

from __future__ import annotations

import json
from typing import Any

# Meaning by code. A code is never renamed: clients, alerts and tests go by it.
CODES = {
    # A scan
    "scan-file": "The file is no whole NIfTI volume of real numbers.",
    "scan-not-found": "A scan that the index or the workspace lists is missing.",
    "scan-changed": "A scan's content is not what was checked before.",
    "scan-geometry": "Shape, voxel size, field of view or affine are not those of a head scan.",
    "scan-too-large": "The scan has more voxels than can be processed.",
    "scan-not-finite": "The scan has NaN or infinite voxels.",
    "scan-constant": "All voxels are the same.",
    "scan-intensity": "The intensities are not those of a magnitude image.",
    "scan-contrast": "The background is not dark.",
    "scan-no-head": "No head can be found in the picture.",
    "scan-name-repeated": "Two scans have the same name.",
    "phase-missing": "The release needs a phase image and there is none.",
    "phase-grid": "The phase image is on another grid than its SWI.",
    "phase-not-finite": "The phase image has NaN or infinite voxels.",
    "phase-constant": "The phase image is constant.",
    "phase-unusable": "The file is no high-pass filtered phase image of this SWI.",
    # A dataset
    "dataset-layout": "Folders and files are not in the expected layout.",
    "dataset-faults": "Several faults, all listed.",
    "annotations-invalid": "annotations.csv cannot be read or has impossible values.",
    "annotation-outside": "An annotation lies outside its scan.",
    "annotation-repeated": "Two rows mark the same lesion.",
    "annotation-without-scan": "A row names a scan that is not there.",
    # Settings and options
    "params-not-yaml": "params.yaml is no valid YAML.",
    "params-invalid": "params.yaml has unknown keys or impossible values.",
    "setting-invalid": "An environment variable or option has an impossible value.",
    "options-conflict": "Options that exclude or need one another.",
    "option-count": "An option was repeated too often or not often enough.",
    "package-missing": "An optional package is not installed.",
    "program-missing": "A program is not installed.",
    "system-unsupported": "This does not run on this operating system.",
    "phantom-setting": "A setting of the simulator is out of range.",
    "phantom-no-room": "There is no room for as many lesions.",
    # Files and folders
    "file-not-found": "There is no such file.",
    "file-not-readable": "The file may not be read.",
    "folder-not-writable": "The folder cannot be written to.",
    "folder-taken": "The folder already holds something else.",
    "folder-in-use": "Another process uses the folder.",
    "disk-full": "No room is left on the disk.",
    # Training
    "leakage": "A subject would be judged by what it had a part in.",
    "split-incomplete": "split.json does not cover the subjects as it must.",
    "split-unknown-dataset": "split.locked_datasets names a dataset that is not there.",
    "training-too-few": "Too few scans, subjects or lesions to train with.",
    "locked-set-empty": "There are no locked scans.",
    "prepared-missing": "Prepared scans are missing.",
    "prepared-outdated": "Prepared scans are those of an earlier version.",
    "candidates-missing": "There are no out-of-fold candidates.",
    "study-without-trial": "No trial of a tuning study trained.",
    "results-incomplete": "Results or what they were made from are missing.",
    "results-mixed": "Results of different releases or of one scan twice.",
    "rows-invalid": "Saved evaluation rows have other columns or contradict themselves.",
    "rows-missing": "A release lacks the rows of its evaluation.",
    "export-parity": "The exported networks differ from the trained ones.",
    # A workspace
    "workspace-missing": "The folder is no workspace.",
    "workspace-damaged": "A file of the workspace is not valid UTF-8, YAML or Python.",
    "code-changed": "The installed code is not the one of code.lock.",
    "code-lock-damaged": "code.lock is missing or cannot be read.",
    "upgrade-conflict": "The site and the template changed the same lines.",
    "git-failed": "git refused.",
    "git-no-commit": "There is no commit yet.",
    "git-dirty": "Files differ from the commit.",
    "dvc-failed": "DVC refused.",
    "command-failed": "A command ended with an error.",
    "outputs-outdated": "Outputs are not those that dvc.lock records.",
    "outputs-missing": "Outputs of stages are missing.",
    # Releases
    "bundle-incomplete": "A bundle lacks a file.",
    "bundle-changed": "A bundle's files are not those of its manifest or signature.",
    "bundle-damaged": "A file of a bundle cannot be read.",
    "release-unknown": "There is no such release.",
    "release-changed": "A release's content is not what was registered.",
    "release-damaged": "A kept release is incomplete.",
    "release-number": "A release's number must be 1 or more.",
    "releases-equal": "Two releases were expected, the same one was named twice.",
    "artifact-missing": "The artifact store does not have a release's files.",
    "lineage-incomplete": "lineage.json lacks an entry.",
    "lineage-contradicted": "git or DVC contradict a release's lineage.",
    "locked-scans-changed": "The locked scans at hand are not those of the release.",
    "environment-unknown": "The packages that a release was trained with are not recorded.",
    "metrics-not-finite": "A stage wrote a figure that is not finite.",
    "report-missing": "A gate report is missing.",
    "report-changed": "A gate report is not the one of the audit log.",
    "role-empty": "No release has the role.",
    "role-taken": "The release already has another role.",
    "reason-missing": "The command needs a reason.",
    "approver-needed": "Someone other than the trainer must promote.",
    "registry-moved": "Roles moved while the command ran.",
    "registry-disagrees": "The registry's roles are not those of the audit log.",
    "registry-unreachable": "The MLflow registry cannot be reached.",
    "log-damaged": "A hash-chained log is broken.",
    "log-behind": "The audit log lacks entries that the registry knows of.",
    "time-invalid": "No date or time that can be read.",
    "hash-invalid": "No hash and no file.",
    # Trust
    "key-missing": "A key is missing.",
    "key-wrong": "The key is another one.",
    "key-unusable": "The file is no usable key.",
    "key-exposed": "A secret may be read by others.",
    "key-in-git": "A secret would lie in a git repository.",
    "signature-missing": "The release is not signed.",
    "signature-invalid": "The signature is no valid one of a trusted key.",
    "tls-incomplete": "Certificate and key must be given together.",
    "tls-required": "A server that others can reach needs TLS.",
    "tls-refused": "The TLS connection was refused.",
    "tls-file": "The file is no PEM file of the expected kind.",
    "admin-key-missing": "The server needs an administrator's key.",
    "admin-key-unusable": "The administrator's key is too short or has other characters.",
    "admin-key-wrong": "The server has another administrator's key.",
    # Serving
    "server-not-running": "No server was named and none runs here.",
    "server-unreachable": "The server does not answer.",
    "server-without-release": "The server has no release to answer with.",
    "server-timeout": "The server did not answer in time.",
    "server-refused-release": "The server did not take the release.",
    "server-environment": "The bundled server's environment is missing or incomplete.",
    "shared-memory-unavailable": "Client and server share no memory.",
    "port-in-use": "The port is in use.",
    "golden-answer": "The server's answer to the golden scan is not the bundle's.",
    "request-refused": "The server refused the request.",
    "step-inconsistent": "Arrays that pass between the served models do not fit one another.",
    "repository-incomplete": "A model repository lacks its checksums.",
    "repository-changed": "A model repository's files are not those of its checksums.",
    "repository-damaged": "A model repository's checksums cannot be read.",
}


class InputError(ValueError):
    """Input that cannot be used, described in one sentence: case, expected, got, remedy.

    Attributes:
        code: One of CODES: what programs go by. The sentence may be reworded at any time.
        case: The file, subject or parameter at fault.
        expected: What was expected.
        got: What there is instead.
        remedy: What to do about it.
    """

    def __init__(self, code: str, case: object, expected: str, got: str, remedy: str) -> None:
        self.code, self.case = code, str(case)
        self.expected, self.got, self.remedy = expected, got, remedy
        super().__init__(f"{case}: expected {expected}, got {got}; {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        # Worker processes send exceptions back by pickle, which would call __init__ with the joined message alone.
        return type(self), (self.code, self.case, self.expected, self.got, self.remedy)

    def as_dict(self) -> dict[str, str]:
        """Code and parts, for JSON."""
        return {k: getattr(self, k) for k in ("code", "case", "expected", "got", "remedy")}


def to_status(error: InputError) -> str:
    """An error as the message of a gRPC status: the sentence, then the parts as JSON."""
    return f"{error} {json.dumps(error.as_dict())}"


def from_status(message: str, case: object) -> InputError | None:
    """The error that `to_status` wrote, about the client's own `case`; None for a message of another origin.

    A server may put words before or after it.
    """
    start = message.find('{"code": ')
    if start < 0:
        return None
    try:
        parts: dict[str, Any] = json.JSONDecoder().raw_decode(message[start:])[0]
        return InputError(parts["code"], case, parts["expected"], parts["got"], parts["remedy"])
    except (ValueError, KeyError):
        return None
