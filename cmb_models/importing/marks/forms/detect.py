"""Which form a file has, by its suffix and content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cmb_models.errors import InputError
from cmb_models.importing.marks.forms.excel import EXCEL
from cmb_models.importing.marks.forms.masks import MASK, read_mask
from cmb_models.importing.marks.forms.public_sets import CSIRO, DOU, is_csiro, read_csiro, read_dou
from cmb_models.importing.marks.forms.sheets import TABLE, read_sheet
from cmb_models.importing.marks.forms.slicer import FCSV, MARKUPS, read_fcsv, read_markups
from cmb_models.importing.marks.reading import LARGEST_MM, Options, Reading, too_large
from cmb_models.io import formats
from cmb_models.io.nifti import SUFFIXES

FORMS: dict[str, Callable[[Path, Options], Reading | list[Reading]]] = {
    TABLE: read_sheet,
    MARKUPS: read_markups,
    FCSV: read_fcsv,
    MASK: read_mask,
    DOU: read_dou,
    CSIRO: read_csiro,
}
BY_SUFFIX = {
    (".json",): MARKUPS,
    (".fcsv",): FCSV,
    (*SUFFIXES, *formats.SUFFIXES): MASK,
    (".mat",): DOU,
    EXCEL: TABLE,
    (".csv", ".tsv", ".txt"): TABLE,
}
KNOWN = tuple(suffix for suffixes in BY_SUFFIX for suffix in suffixes)
FCSV_START = b"# Markups fiducial file"


def read_file(file: Path, options: Options) -> list[Reading]:
    """Read a file of marks in whatever form it has, or that of the options.

    Raises:
        InputError: If the file is missing, may not be read, has no known form, or is damaged.
    """
    if not file.is_file():
        raise InputError("file-not-found", file, "a file of marks", "no such file", "check the path")
    try:
        read = FORMS[options.form or form_of(file)](file, options)
    except PermissionError as error:
        raise InputError(
            "file-not-readable", file, "a file that may be read", "permission denied", "check its permissions"
        ) from error
    return [_noted(r) for r in ([read] if isinstance(read, Reading) else read)]


def _noted(reading: Reading) -> Reading:
    """A reading with a note of microbleeds that are too large to be any."""
    if not (large := too_large(reading.marks)):
        return reading
    warning = f"{len(large)} cmb above {LARGEST_MM:g} mm, by definition none: correct the diameter or the label"
    return replace(reading, note="; ".join(filter(None, [reading.note, warning])))


def form_of(file: Path) -> str:
    """The form of a file, a name of FORMS. Raises InputError if it has none of them."""
    form = next((form for suffixes, form in BY_SUFFIX.items() if file.name.lower().endswith(suffixes)), None)
    if form is None:
        remedy = "save it as CSV or .xlsx, or name its form with --from"
        raise InputError("marks-form", file, f"a file of marks ({', '.join(KNOWN)})", f"a {file.suffix or 'nameless'} file", remedy)
    if form != TABLE:
        return form
    if file.suffix.lower() in EXCEL:
        return CSIRO if is_csiro(file) else TABLE
    with file.open("rb") as stream:
        return FCSV if stream.read(len(FCSV_START)) == FCSV_START else TABLE
