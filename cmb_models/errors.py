"""The exception for invalid input, and its stable codes: programs match the code, people read the message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

# Meaning by code. A code is never renamed: clients, alerts and tests match it.
CODES = {
    # A scan
    "scan-file": "The file is not a complete NIfTI volume of real numbers.",
    "scan-not-found": "A scan that the index or the workspace lists is missing.",
    "scan-changed": "A scan's content differs from what was checked before.",
    "scan-space": "A NIfTI header does not say, or says in two ways, where its image lies in the scanner.",
    "scan-geometry": "Shape, voxel size, field of view or affine are not plausible for a head scan.",
    "scan-too-large": "The scan has more voxels than can be processed.",
    "scan-not-finite": "The scan has NaN or infinite voxels.",
    "scan-constant": "All voxels have the same value.",
    "scan-intensity": "The intensities are not those of a magnitude image.",
    "scan-contrast": "The background is not dark.",
    "scan-derived": "The image is a projection over several slices, or a series other than SWI.",
    "scan-coverage": "The scan covers too little of a head.",
    "scan-repeated": "The same scan stands under two names.",
    "scan-withdrawn": "The scan of a patient who withdrew is there again.",
    "scan-unread": "Nobody read the scan: annotations.csv has no row for it.",
    "scan-no-head": "The image shows no head.",
    "scan-series": "A folder of DICOM files has no SWI series, or several.",
    "scan-mixed": "A folder has both NIfTI and DICOM files.",
    "dicom-header": "No DICOM results can refer to these images, by their headers.",
    "dicom-patients": "Two DICOM series that are compared have different patient IDs.",
    "dicom-order": "The baseline of a comparison is a later study than the follow-up.",
    "dicom-frame-of-reference": "A DICOM series has no frame of reference, or several: results cannot be placed.",
    "scan-name-repeated": "Two scans have the same name.",
    "registration-failed": "Two scans could not be registered: no place of one is known in the other.",
    "phase-missing": "The release needs a phase image, which is missing.",
    "phase-grid": "The phase image is on a different grid from its SWI.",
    "phase-not-finite": "The phase image has NaN or infinite voxels.",
    "phase-constant": "The phase image is constant.",
    "phase-unusable": "The file is not a high-pass filtered phase image of this SWI.",
    # An import
    "import-nothing": "There is nothing to import in the folders.",
    "import-identity": "Images do not say whose they are, or two patients would share a subject code.",
    "import-key": "The key file of an import lies with shared data, is readable by others, damaged, or not the dataset's.",
    "import-conversion": "A DICOM series could not be converted to one whole volume.",
    "import-timeout": "A DICOM series was not converted in time.",
    "marks-form": "A file of marks has no known form, or is not a whole one of its form.",
    "marks-option": "A file of marks does not say what an option must say then.",
    "marks-unmatched": "Marks belong to no scan of the dataset, or to several.",
    "marks-grid": "A label mask is on another grid than its scan.",
    "marks-rater": "Several raters read one scan, of whom one alone or their consensus can be in annotations.csv.",
    # A dataset
    "dataset-layout": "Folders and files are not in the expected layout.",
    "dataset-faults": "Several faults, all listed.",
    "annotations-invalid": "annotations.csv, or a table of marks, cannot be read or has invalid values.",
    "annotation-frame": "The marks of a dataset are written in another frame than scanner RAS millimetres.",
    "annotation-outside": "An annotation lies outside its scan.",
    "annotation-not-dark": "A marked microbleed is not dark.",
    "annotation-repeated": "Two rows mark the same lesion, or a rater read the same scan twice.",
    "annotation-without-scan": "A row names a scan that does not exist.",
    "data-version": "A version of the data does not exist or holds no such dataset.",
    "data-missing": "A dataset that DVC versions is not in the workspace, or DVC's cache lacks files of one of its versions.",
    "subject-unknown": "There is no such subject.",
    "withdrawal-unfinished": "The withdrawal of a subject was interrupted and must be completed first.",
    # Settings and options
    "params-not-yaml": "params.yaml is not valid YAML.",
    "params-invalid": "params.yaml has unknown keys or invalid values.",
    "setting-invalid": "An environment variable or option has an invalid value.",
    "options-conflict": "Options exclude or require one another.",
    "option-count": "An option was given too many or too few times.",
    "package-missing": "An optional package is not installed.",
    "program-missing": "A program is not installed.",
    "system-unsupported": "The operation is not supported on this operating system or file system.",
    "phantom-setting": "A setting of the simulator is out of range.",
    "phantom-no-room": "There is not enough room for the requested number of lesions.",
    "manifest-invalid": "The list of a cohort's scans cannot be read, names a scan or a name twice, or files that do not exist.",
    # Files and folders
    "file-not-found": "The file does not exist.",
    "file-not-readable": "The file cannot be read for lack of permission.",
    "folder-not-writable": "The folder cannot be written to.",
    "folder-taken": "The folder already contains something else.",
    "folder-in-use": "Another process uses the folder.",
    "disk-full": "The disk is full.",
    # Training
    "leakage": "A subject would be evaluated with something derived from that subject.",
    "split-incomplete": "split.json does not match the subjects of the index.",
    "split-not-locked": "A dataset named locked is not in split.locked_datasets.",
    "split-unknown-dataset": "split.locked_datasets names a dataset that does not exist.",
    "training-too-few": "Too few scans, subjects or lesions to train with.",
    "locked-set-empty": "There are no locked scans.",
    "prepared-missing": "Prepared scans are missing.",
    "prepared-outdated": "Prepared scans were written by an earlier version.",
    "candidates-missing": "There are no out-of-fold candidates.",
    "study-without-trial": "All trials of a tuning study failed.",
    "results-incomplete": "Results or their inputs are missing.",
    "results-mixed": "Results come from different releases, or twice from one scan.",
    "rows-invalid": "Saved evaluation rows have unexpected columns or are inconsistent.",
    "rows-missing": "A release lacks the rows of its evaluation.",
    "storage-unreachable": "Storage with scans cannot be reached, or refuses the request.",
    "database-unreachable": "The database that CMB_OPTUNA_STORAGE names cannot be reached.",
    "database-lost": "The connection to the database of the studies was lost during a run.",
    "scheduler-unreachable": "The Dask scheduler that CMB_SCHEDULER names does not answer.",
    "scheduler-lost": "The connection to the Dask scheduler was lost during a run.",
    "worker-version": "A worker of the scheduler has another version of this library, torch or Python.",
    "worker-inputs": "A worker of the scheduler does not see the client's files.",
    "worker-lost": "A job ended several workers of the scheduler.",
    "export-parity": "The exported networks differ from the trained ones.",
    # A workspace
    "workspace-missing": "The folder is not a workspace.",
    "workspace-damaged": "A file of the workspace is not valid UTF-8, YAML or Python.",
    "code-changed": "The installed code differs from code.lock.",
    "code-lock-damaged": "code.lock is missing or cannot be read.",
    "upgrade-conflict": "The site and the template changed the same lines.",
    "git-failed": "A git command failed.",
    "git-no-commit": "There is no commit yet.",
    "git-no-merge": "No git merge is under way or was the last commit.",
    "git-dirty": "Files differ from the commit.",
    "dvc-failed": "A DVC command failed.",
    "command-failed": "A command ended with an error.",
    "outputs-outdated": "Outputs differ from those that dvc.lock records.",
    "outputs-missing": "Outputs of stages are missing.",
    # Releases
    "bundle-incomplete": "A bundle lacks a file.",
    "bundle-changed": "A bundle's files differ from its manifest or signature.",
    "bundle-damaged": "A file of a bundle cannot be read.",
    "base-release-missing": "This build of the package has no base release.",
    "release-unknown": "The release does not exist.",
    "release-changed": "A release's content differs from what was registered.",
    "release-damaged": "A stored release is incomplete.",
    "release-number": "A release number must be 1 or more.",
    "releases-equal": "Two releases were expected, but the same one was named twice.",
    "artifact-missing": "The artifact store does not have a release's files.",
    "lineage-incomplete": "lineage.json lacks an entry.",
    "lineage-contradicted": "git or DVC contradict a release's lineage.",
    "locked-scans-changed": "The locked scans differ from those of the release.",
    "environment-unknown": "The packages that a release was trained with are not recorded.",
    "metrics-not-finite": "A stage wrote a metric that is not finite.",
    "report-missing": "A gate report is missing.",
    "report-changed": "A gate report differs from the one in the audit log.",
    "role-empty": "No release has the role.",
    "role-taken": "The release already has another role.",
    "reason-missing": "The command needs a reason.",
    "approver-needed": "Someone other than the trainer must promote.",
    "registry-moved": "Roles changed while the command ran.",
    "registry-missing": "The registry holds none of the releases that the audit log names.",
    "registry-disagrees": "The registry's roles differ from the audit log.",
    "registry-unreachable": "The MLflow registry cannot be reached.",
    "log-damaged": "A hash-chained log is broken.",
    "log-behind": "The audit log lacks entries that the registry has.",
    "time-invalid": "The date or time cannot be parsed.",
    "hash-invalid": "The argument is neither a hash nor a file.",
    # Trust
    "key-missing": "A key is missing.",
    "key-wrong": "The key does not match.",
    "key-unusable": "The file is not a usable key.",
    "key-exposed": "Other users can read a secret.",
    "key-in-git": "A secret would be written into a git repository.",
    "signature-missing": "The release is not signed.",
    "signature-invalid": "The signature is not a valid one by a trusted key.",
    "tls-incomplete": "Certificate and key must be given together.",
    "tls-required": "A server that accepts remote connections needs TLS.",
    "tls-refused": "The TLS connection was refused.",
    "tls-file": "The file is not a PEM file of the expected kind.",
    "admin-key-missing": "The server needs an administrator key.",
    "admin-key-unusable": "The administrator key is too short or has invalid characters.",
    "admin-key-wrong": "The server has a different administrator key.",
    # Serving
    "server-not-running": "No server was named and none is running locally.",
    "server-unreachable": "The server does not respond.",
    "server-without-release": "The server has no release loaded.",
    "server-timeout": "The server did not respond in time.",
    "server-version": "The server's answer has not the form that this version of the client reads.",
    "server-refused-release": "The server rejected the release.",
    "server-environment": "The bundled server's environment is missing or incomplete.",
    "shared-memory-unavailable": "Client and server cannot share memory.",
    "port-in-use": "The port is in use.",
    "golden-answer": "The server's result for the golden scan differs from the bundle's.",
    "request-refused": "The server rejected the request.",
    "step-inconsistent": "Arrays passed between the served models are inconsistent.",
    "repository-incomplete": "A model repository lacks its checksums.",
    "repository-changed": "A model repository's files do not match its checksums.",
    "repository-damaged": "A model repository's checksums cannot be read.",
    "device-failed": "A CUDA device was requested and cannot be used, or not any longer.",
    "device-memory": "An input does not fit into the CUDA device's memory, even in parts.",
    "device-unknown": "There is no device of this name.",
    "network-unsupported": "A network has an operator that this runtime does not implement.",
}


def printable(text: str) -> str:
    """Text with control characters, newlines and undecodable bytes of file names escaped, to show in terminals and pages."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class InputError(ValueError):
    """Invalid input, described in one sentence: case, expected, got, remedy.

    Attributes:
        code: One of CODES, for programs. The wording of the message may change at any time.
        case: The file, subject or parameter at fault, `printable`.
        expected: What was expected.
        got: What was found.
        remedy: How to correct it.
    """

    def __init__(self, code: str, case: object, expected: str, got: str, remedy: str) -> None:
        self.code, self.case = code, printable(str(case))
        # What was got quotes files. Lists of faults have a line for each.
        self.expected, self.got, self.remedy = expected, "\n".join(map(printable, got.split("\n"))), remedy
        # The remedy follows a list on a line of its own.
        super().__init__(f"{self.case}: expected {expected}, got {self.got}{'' if self.got.endswith(chr(10)) else '; '}{remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        # Worker processes return exceptions by pickle, which would otherwise call __init__ with the joined message alone.
        return type(self), (self.code, self.case, self.expected, self.got, self.remedy)

    def as_dict(self) -> dict[str, str]:
        """The code and the parts of the message, for JSON."""
        return {k: getattr(self, k) for k in ("code", "case", "expected", "got", "remedy")}


# Packages by extra, without those whose absence is reported where they are imported.
EXTRAS = {
    "analysis": ("scipy", "matplotlib", "pandas", "jinja2", "markupsafe"),
    "server": ("tritonclient",),
    "client": ("grpc", "google"),
    "train": ("mlflow",),
    "compare": ("scipy",),
    "cohort": ("pyarrow",),
}


@contextlib.contextmanager
def optional_packages(case: object, needed: str = "") -> Iterator[None]:
    """Raise InputError, naming `case` and the extra to install, where a package of EXTRAS is missing in the block.

    needed: The extra that the block needs; "" for the first one in EXTRAS that has the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = next((name for name in ([needed] if needed else EXTRAS) if package in EXTRAS[name]), None)
        if extra is None:
            raise
        remedy = f"run pip install 'cmb-models[{extra}]'"
        raise InputError("package-missing", case, f"the packages of the extra {extra}", f"no {package}", remedy) from error


@contextlib.contextmanager
def collected(faults: list[InputError]) -> Iterator[None]:
    """Add an InputError of the block to a list instead of raising it."""
    try:
        yield
    except InputError as error:
        faults.append(error)


def joined(errors: Sequence[InputError], case: object, expected: str, remedy: str) -> InputError:
    """One error, with the code dataset-faults, that lists one or more."""
    listed = "".join(f"\n  - {error}" for error in errors)
    number = "1 fault" if len(errors) == 1 else f"{len(errors)} faults"
    return InputError("dataset-faults", case, expected, f"{number}:{listed}\n", remedy)


def to_status(error: InputError) -> str:
    """Format an error as the message of a gRPC status: the sentence, then the parts as JSON."""
    return f"{error} {json.dumps(error.as_dict())}"


def from_status(message: str, case: object) -> InputError | None:
    """Parse a message of `to_status`, with the client's `case`; None for any other message. Surrounding text is ignored."""
    start = message.find('{"code": ')
    if start < 0:
        return None
    try:
        parts: dict[str, Any] = json.JSONDecoder().raw_decode(message[start:])[0]
        return InputError(parts["code"], case, parts["expected"], parts["got"], parts["remedy"])
    except (ValueError, KeyError):
        return None
