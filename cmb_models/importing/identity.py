"""Pseudonyms: a code for each patient, from a secret that stays outside the dataset.

The key file holds the secret and, for the site's eyes only, which patient each code stands for. No other text that could identify a
patient is written anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.files import atomic_write, read_json, remove_partial, system_reason

CODE_LETTERS = 8  # 40 bits: two of a thousand patients share a code with a probability of 5e-7
# What archives write for everybody when they remove IDs: the patients would become sessions of one subject.
PLACEHOLDER = re.compile(r"anon(ym(ous|i[sz]ed)?)?|unknown|none|removed|redacted|de-?identified|0+|x+", re.IGNORECASE)
OF_FILES = "file "  # before the names of image files: patient 3 of a folder need not be the one with PatientID 3
NAME_LETTERS = 16  # of the hash of a name
TRANSLITERATED = re.compile("([aou])e")
KEYS = ".cmb-models/import-keys"  # in the user's home folder


@dataclass(frozen=True)
class Who:
    """Whose an image is.

    Args:
        identity: What the source calls the patient; "" if it does not say.
        born: Birth date, as written there; "" if unknown.
        label: The subject, such as "sub-01", to keep instead of a code; "" for a code.
        name: The patient's name, where `identity` is an ID, as of `name_letters`; "" if unknown.
    """

    identity: str
    born: str = ""
    label: str = ""
    name: str = ""


@dataclass
class Patient:
    """A patient of a key.

    Args:
        identity: As in the source.
        born: Birth date there.
        sessions: Label of each study by what the source calls it.
        name: Keyed hash of the name there, to tell two patients of one ID apart; "" if unknown. Several of one who was renamed.
    """

    identity: str
    born: str = ""
    sessions: dict[str, str] = field(default_factory=dict)
    name: str = ""


@dataclass
class Key:
    """The key file of a dataset: subject codes and sessions stay the same from one import to the next."""

    path: Path
    secret: str
    patients: dict[str, Patient] = field(default_factory=dict)
    series: dict[str, str] = field(default_factory=dict)  # `Image.uid` by the path that it was imported to, as of `in_datasets`

    def subject(self, who: Who, case: object, may_be_renamed: bool = False) -> str:
        """The subject of an image, such as "sub-k3w7qzt2".

        Args:
            who: Whose it is.
            case: The image, in error messages.
            may_be_renamed: Whether patients of one ID and birth date are one, however they are named.

        Raises:
            InputError: If the image names no patient, or two patients would share a subject.
        """
        if not who.identity:
            expected, remedy = "a PatientID, or a name and a birth date", "ask for an export with pseudonymous patient IDs"
            raise InputError("import-identity", case, expected, "none, or one for everybody such as ANONYMOUS", remedy)
        code = who.label or self._earlier_code(who.identity) or self._code(one_spelling(who.identity))
        patient = self.patients.setdefault(code, Patient(who.identity, who.born))
        if one_spelling(patient.identity) != one_spelling(who.identity):
            raise InputError("import-identity", case, "one subject per patient", f"two as {code}", "import them with two key files")
        if who.born and patient.born and patient.born != who.born:
            raise several_patients(case, "birth dates")
        name, known = self._digest(who.name).hex()[:NAME_LETTERS] if who.name else "", patient.name.split()
        if name and known and name not in known and not (may_be_renamed and who.born and patient.born):
            raise several_patients(case, "names")
        patient.born = patient.born or who.born
        patient.name = " ".join(dict.fromkeys([*known, *([name] if name else [])]))
        return code

    def is_renamed(self, subject: str) -> bool:
        """Whether a patient had several names."""
        return subject in self.patients and " " in self.patients[subject].name

    def _code(self, identity: str) -> str:
        return f"sub-{base64.b32encode(self._digest(identity)).decode().lower()[:CODE_LETTERS]}"

    def _earlier_code(self, identity: str) -> str:
        """The code of a patient whose name was spelled otherwise before; '' for a new one. Labels that were kept are no codes."""
        alike = [(p.identity, c) for c, p in self.patients.items() if one_spelling(p.identity) == one_spelling(identity)]
        codes = {spelling: code for spelling, code in alike if code in (self._code(spelling), self._code(one_spelling(spelling)))}
        return codes.get(identity) or next(iter(codes.values()), "")

    def _digest(self, text: str) -> bytes:
        return hmac.new(bytes.fromhex(self.secret), os.fsencode(text), hashlib.sha256).digest()

    def session(self, subject: str, study: str, label: str | None = None) -> str:
        """The session of a study: the label, if one is to be kept.

        Else "" for a subject's first, then "ses-02" and so on, in the order in which they are asked for.
        """
        sessions = self.patients[subject].sessions
        if study not in sessions:
            numbered = ("", *(f"ses-{n:02}" for n in range(2, len(sessions) + 3)))
            free = (name for name in numbered if name not in sessions.values())
            sessions[study] = label if label is not None else next(free)
        return sessions[study]

    def namesake(self, subject: str) -> str:
        """Another subject of the same name and birth date, who may be the same patient under a second ID; '' if there is none."""
        own = self.patients[subject]
        if not (own.name and own.born):
            return ""
        alike = (code for code, p in self.patients.items() if code != subject and (p.name, p.born) == (own.name, own.born))
        return min(alike, default="")

    def drop(self, subject: str) -> bool:
        """Forget a patient and the series that were imported; whether there was anything to forget."""
        series = {name: uid for name, uid in self.series.items() if subject not in Path(name).parts}
        known = subject in self.patients or len(series) < len(self.series)
        self.patients.pop(subject, None)
        self.series = series
        return known

    def save(self) -> None:
        """Write the key file, which its owner alone may read, under the lock of its folder; killed ones leave nothing there."""
        remove_partial(self.path.parent, self.path.name)
        saved = {"secret": self.secret, "patients": {c: asdict(p) for c, p in sorted(self.patients.items())}, "series": self.series}
        with atomic_write(self.path, 0o600) as temporary:
            temporary.write_text(json.dumps(saved, indent=2), encoding="utf-8")


def several_patients(case: object, differing: str) -> InputError:
    """The error where one ID stands for several patients: an archive that calls everybody P1.

    differing: what distinguishes them, such as "birth dates".
    """
    expected, remedy = "one patient per PatientID", "ask for an export with an ID for each patient"
    if differing == "names":
        remedy += ", or pass --renamed if all with one ID and birth date are one patient"
    return InputError("import-identity", case, expected, f"one ID with several {differing}", remedy)


def id_of_one(identity: str) -> str:
    """A PatientID; "" if it is a placeholder for everybody's."""
    return "" if PLACEHOLDER.fullmatch(identity) else identity


def plain(text: str) -> str:
    """In small letters without accents, as names are typed at scanners."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))


def one_spelling(identity: str) -> str:
    """An identity for comparison: names of files are typed in capitals or not, and stored with composed accents or not."""
    if not identity.startswith(OF_FILES):
        return identity
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", identity).casefold())


def name_letters(name: str) -> str:
    """A DICOM name for comparison: its letters in the first of its scripts, whether typed Müller, MUELLER or Muller."""
    letters = "".join(c for c in plain(name.partition("=")[0]) if c.isalnum())
    return TRANSLITERATED.sub(r"\1", letters)


def in_datasets(path: str) -> str:
    """Path of a scan relative to the folder of datasets, from any longer one: a workspace may be moved."""
    parts = Path(path).parts
    subject = max((n for n, part in enumerate(parts[:-1]) if part.startswith("sub-")), default=0)
    return Path(*parts[max(subject - 1, 0) :]).as_posix()


def default_key(dataset: Path) -> Path:
    """Where the key file of a dataset is kept unless another is named: in the user's home, outside any shared folder.

    One for all datasets in one folder, so that a patient has one code in all of them.
    """
    resolved = Path(dataset).resolve().parent
    return Path.home() / KEYS / f"{resolved.name}-{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}.json"


def open_key(file: Path, dataset: Path) -> Key:
    """Read a key file, or begin one, which is written by `save`.

    Raises:
        InputError: If it lies in the dataset, can be read by others or not by you, or is damaged.
    """
    file = Path(file).resolve()  # a link stays: what it names is written
    if file.is_relative_to(Path(dataset).resolve()):
        raise InputError("import-key", file, "a key file outside the dataset", f"one in {dataset}", "pass another with --key")
    try:
        mode = file.stat().st_mode & 0o777
        saved = read_json(file)
    except FileNotFoundError:
        return Key(file, secrets.token_hex(32))
    except OSError as error:
        got = system_reason(error)
        raise InputError("file-not-readable", file, "a key file that may be read", got, "pass your own with --key") from error
    except ValueError as error:
        raise _damaged(file, error) from error
    if mode & 0o077:
        raise InputError("import-key", file, "a key file that its owner alone may read", f"mode {mode:o}", f"run chmod 600 {file}")
    try:
        if not bytes.fromhex(saved["secret"]):
            raise ValueError("no secret")
        patients = {
            code: Patient(p["identity"], p["born"], dict(p["sessions"]), p.get("name", "")) for code, p in saved["patients"].items()
        }
        return Key(file, str(saved["secret"]), patients, {in_datasets(path): uid for path, uid in saved["series"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> InputError:
    got = f"one that cannot be read ({type(error).__name__}: {error})"
    return InputError("import-key", file, "a key file of an earlier import", got, "restore it from a backup")
