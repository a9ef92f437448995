"""What the path of an image file says: whose it is, which session, and what it shows.

Names are read word by word: parts of words would find "rest" and "angio" in patients' names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmb_models.dataset.layout import DERIVED
from cmb_models.files import files_below
from cmb_models.io.series_role import GRE, MAGNITUDE, PHASE, SKIPPED, SWI

LABELS = "a label mask: import it with `cmb import marks`"
PROJECTION = "a projection over several slices"
GENERIC = {"nii", "nifti", "data", "image", "images", "swi", "anat", "raw", "task2", "mri", "scans"}  # folders of no patient
BIDS = re.compile(r"sub-(?P<subject>[a-z0-9]+)(?P<entities>(_[a-z]+-[^_]+)*)_(?P<suffix>[a-z0-9]+)", re.IGNORECASE)
# A session in a name: its label, or a day, with the time and the number of the series that dcm2niix adds by default.
# No day before SWI was known: a birth date is a part of the patient's name.
YEAR, MONTH, DAY = r"(?:199\d|20\d\d)", r"(?:0\d|1[0-2])", r"[0-3]\d"
DATE = rf"{YEAR}(?P<sign>[-._]?){MONTH}(?P=sign){DAY}|{DAY}(?P<point>[-._]){MONTH}(?P=point){YEAR}"
TIME = r"(?P<time>T?[0-2]\d[0-5]\d[0-5]\d)(?:_\d+[a-z]?)?"
SESSION = re.compile(rf"(?:^|[_. -])(?:(?P<label>ses-[a-z0-9]+)|(?P<day>{DATE})(?:{TIME})?)(?=[_. -]|$)", re.IGNORECASE)
ECHO = re.compile(r"e\d{1,2}")  # the word that dcm2niix adds to each echo of several
VISIT = re.compile(  # folders that can only be of one time point
    r"ses-[a-z0-9]+|(19|20)\d\d([_-]?\d\d){0,2}|(baseline|follow[_-]?up|visit|session|timepoint|tp|year|month)[_-]?\d*",
    re.IGNORECASE,
)
# Words of a visit within a name. Those that are names and initials too count behind the first word alone.
VISIT_WORD = re.compile(r"(baseline|followup|visit|session|timepoint|tp|year|month)\d*", re.IGNORECASE)
SHORT_VISIT_WORD = re.compile(r"pre|post|[vt]\d", re.IGNORECASE)
COUNTED = {"visit", "session", "timepoint", "tp", "year", "month"}
ROLES = {
    SWI: {"swi", "swip", "eswi", "swan", "eswan", "fsbb", "venobold", "swigre"},
    PHASE: {"phase", "pha"},
    MAGNITUDE: {"mag", "magn", "magnitude"},
    GRE: {"gre", "megre", "t2s", "t2star", "t2starw"},
}
SKIPPED_WORDS = {
    PROJECTION: {"minip", "mip", "mips", "mnip"},
    "a map, not an image": {"qsm", "t2starmap", "r2star", "r2s", "t2map", "t1map", "fieldmap", "b0map", "adc"},
    "T1-weighted, not SWI": {"t1", "t1w", "mprage", "mp2rage", "t1ce"},
    "T2-weighted, not SWI": {"t2", "t2w"},
    "FLAIR, not SWI": {"flair"},
    "diffusion, not SWI": {"dwi", "dti", "sbref"},
    "proton-density-weighted, not SWI": {"pdw"},
    "angiography, not SWI": {"tof", "mra", "angio"},
    "perfusion, not SWI": {"asl", "perf", "m0scan"},
    "functional, not SWI": {"bold", "epi", "fmri"},
}
# Initials and groups of patients too, if they are not the last word.
LAST_WORDS = {"pd": "proton-density-weighted, not SWI", "ct": "CT, not MR", "pet": "PET, not MR"}
LAST_WORDS |= dict.fromkeys(("real", "imaginary", "imag"), "a real or imaginary part")
LAST_WORDS |= dict.fromkeys(("cmb", "cmbs", "roi", "rois", "seg"), LABELS)
LABEL_WORDS = {
    "mask",
    "masks",
    "brainmask",
    "label",
    "labels",
    "dseg",
    "probseg",
    "segmentation",
    "lesion",
    "lesions",
    "microbleeds",
}


@dataclass(frozen=True)
class Name:
    """What a path says.

    Args:
        subject: Label or name of the patient; '' if nothing is left of the path that could be one.
        session: '' if none is named.
        acquisition: What distinguishes the acquisitions of one session, such as "acq-hr_run-1".
        role: SWI, PHASE, MAGNITUDE, GRE or SKIPPED; '' if it does not say.
        reason: Why it is skipped, or what is wrong with the name.
        is_named_swi: Whether the word SWI, or a vendor's name for it, is part of it.
        group: Folders that may be groups of patients, each numbered alike, or time points.
        is_bids: Whether the subject is a BIDS label.
    """

    subject: str
    session: str
    acquisition: str
    role: str
    reason: str
    is_named_swi: bool
    group: str = ""
    is_bids: bool = False


def read_name(stem: str, folders: Sequence[str], root: str, by_folder: bool = False) -> Name:
    """Read the path of a file.

    Args:
        stem: The file's name without its suffix.
        folders: The folders between the source and the file, the outermost first.
        root: Name of the source's folder, which counts where no folder in between does.
        by_folder: Whether the folder is the patient's, where no BIDS label says.
    """
    if derived := DERIVED & {f.lower() for f in folders}:
        return Name("", "", "", SKIPPED, f"in {min(derived)}/", False)
    if bids := BIDS.fullmatch(stem):
        return _bids(bids, folders)
    session, rest = _session(stem)
    words = _words(rest)
    if words and words[-1].lower() == "ph":  # as dcm2niix names phase images
        words[-1] = "phase"
    words = _without_echo(words)
    role, reason = _role(words)
    kinds = [f for f in folders if _is_kind(f)]
    inner = [f for f in folders if f not in kinds and f.lower() not in GENERIC]
    if not role:
        role, reason = next((_role(_words(f)) for f in reversed(kinds)), ("", ""))
    subject, visit = _subject_and_visit(words)
    session = "/".join(filter(None, (visit, session)))
    group = ""
    if inner and (by_folder or not subject):
        folder = inner.pop(0)
        own, rest = _session(folder)
        subject, visit = _subject_and_visit(_words(rest))
        subject, of_folder = (subject, (visit, own)) if subject else (folder, ())
        session = "/".join(filter(None, (*of_folder, session)))
    elif subject:
        group = "/".join(f for f in inner if not VISIT.fullmatch(f))
    else:  # dates in one folder are more likely of several patients
        subject, session = session or root, ""
    sessions = [*(f for f in inner if VISIT.fullmatch(f)), session]
    is_swi = bool(ROLES[SWI] & {w.lower() for w in (*words, *kinds)})
    return Name(subject, "/".join(sessions).strip("/"), "", role, reason, is_swi, group)


def _session(stem: str) -> tuple[str, str]:
    """The session that a name says, "" if none, and the name without it. A day is written as 20240117 always."""
    match = SESSION.search(stem)
    if match is None:
        return "", stem
    parts = re.split("[-._]", match["day"] or "")
    day = "".join(reversed(parts) if match["point"] else parts)  # the year first, so that visits are in order
    session = match["label"] or day + (match["time"] or "")
    return session, f"{stem[: match.start()]}_{stem[match.end() :]}"


def _without_echo(words: list[str]) -> list[str]:
    """The words of a name without that of an echo: the echoes of an image are one patient's."""
    last = len(words) - (2 if words and words[-1].lower() in ROLES[PHASE] else 1)
    others = [*words[: max(last, 0)], *words[last + 1 :]]
    return others if last > 0 and ECHO.fullmatch(words[last]) and _subject(others) else words


def _is_kind(folder: str) -> bool:
    """Whether a folder is named by what its images show alone. Phase_2, PD and CT may be groups of patients."""
    known = set(LABEL_WORDS).union(*ROLES.values(), *SKIPPED_WORDS.values())
    return bool(folder) and all(w.lower() in known for w in _words(folder))


def _subject(words: Sequence[str]) -> str:
    """Words without those that say what an image shows. Of others none is left out: PD_03 and CT_03 may be two patients."""
    return "_".join(w for w in words if w.lower() not in set().union(*ROLES.values()))


def _subject_and_visit(words: Sequence[str]) -> tuple[str, str]:
    """The subject and the words of its visit: P01 and followup of P01_followup_swi. The visit is '' if no subject would be left."""
    visit: list[str] = []
    rest: list[str] = []
    n = 0
    while n < len(words):
        word, following = words[n].lower(), words[n + 1].lower() if n + 1 < len(words) else ""
        taken = 1
        if (word == "follow" and following.rstrip("0123456789") == "up") or (word in COUNTED and following.isdigit()):
            taken = 2
        is_visit = taken == 2 or VISIT_WORD.fullmatch(word) or (n > 0 and SHORT_VISIT_WORD.fullmatch(word))
        (visit if is_visit else rest).extend(words[n : n + taken])
        n += taken
    subject = _subject(rest)
    return (subject, "_".join(visit)) if subject else (_subject(words), "")


def _words(text: str) -> list[str]:
    return [w for w in re.split(r"[_\-. ]+", text) if w]


def _bids(match: re.Match[str], folders: Sequence[str]) -> Name:
    subject = match["subject"]
    pairs = [part.split("-", 1) for part in match["entities"].split("_") if part]
    entities = {key.lower(): value for key, value in pairs}
    suffix = match["suffix"].lower()
    session = entities.pop("ses", next((f[4:] for f in folders if f.lower().startswith("ses-")), ""))
    part = entities.pop("part", "").lower()
    # Sites write acq-mag and rec-minIP where BIDS has part-mag and a suffix.
    by_entity = {k: v for k, v in entities.items() if k in ("acq", "rec", "desc") and _role([v])[0] in (SKIPPED, PHASE, MAGNITUDE)}
    acquisition = "_".join(f"{k}-{v}" for k, v in entities.items() if k not in by_entity)
    role, reason = _role([*by_entity.values(), suffix])
    if role in (SWI, GRE) and part:
        role = {"phase": PHASE, "mag": MAGNITUDE}.get(part, SKIPPED)
        reason = "" if role != SKIPPED else f"the part {part} of a complex image"
    if not role:
        role, reason = SKIPPED, f"{match['suffix']}, not SWI"
    strays = [f for f in folders if f.lower().startswith("sub-") and f[4:].lower() != subject.lower()]
    if strays and role != SKIPPED:
        subject, reason = "", f"in the folder of {strays[-1]}"
    return Name(subject, f"ses-{session}" if session else "", acquisition, role, reason, suffix in ROLES[SWI], is_bids=True)


def _role(words: Sequence[str]) -> tuple[str, str]:
    lower = [w.lower() for w in words]
    if not lower:
        return "", ""
    if set([w for w in lower if not w.isdigit()][-1:]) & LABEL_WORDS:
        return SKIPPED, LABELS
    if reason := LAST_WORDS.get(lower[-1], ""):
        return SKIPPED, reason
    for reason, known in SKIPPED_WORDS.items():
        if known & set(lower) and (reason == PROJECTION or not ROLES[SWI] & set(lower)):
            return SKIPPED, reason
    for role in (PHASE, MAGNITUDE, SWI, GRE):
        if ROLES[role] & set(lower):
            return role, ""
    return "", ""


def relative_parts(file: Path, source: Path) -> tuple[tuple[str, ...], str]:
    """The folders between a source and a file in it, and the name of the source's folder."""
    if source.is_file():
        return (), source.resolve().parent.name
    return file.relative_to(source).parts[:-1], source.resolve().name


def files_of(sources: Iterable[Path], on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """The files named, and all files in the folders named, at any depth. on_error: as of `files_below`."""
    for source in sources:
        yield from [source] if source.is_file() else files_below(source, on_error)
