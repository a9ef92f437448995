"""From files to annotations.csv: all of it or nothing, once, and checked against the scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cmb_models.dataset.index import index_datasets
from cmb_models.importing.identity import Key, Patient
from cmb_models.importing.marks.add import import_marks, reading_file
from cmb_models.importing.marks.reading import Options
from cmb_models.io.annotations import Annotation, EmptyReading, read_readings
from cmb_models.io.nifti import write_volume
from tests.support.bundles import BLOBS_MM, head
from tests.support.command_line import cmb
from tests.support.refused import refused
from tests.unit.importing.marks import written
from tests.unit.importing.marks.conftest import LAS

AB, CD = Options(rater="AB"), Options(rater="CD")
HEADER = "subject,session,x_mm,y_mm,z_mm,diameter_mm,label,rater"


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and content of every file but the scans: writing a file again gives it another inode."""
    files = (f for f in sorted(folder.rglob("*")) if f.suffix != ".gz" and f.is_file())
    return {str(f.relative_to(folder)): (f.stat().st_ino, f.read_bytes()) for f in files}


def rows_of(site: Path) -> list[Annotation]:
    return read_readings(site / "annotations.csv").annotations


def centres(site: Path, subject: str) -> list[tuple]:
    return sorted(a.centre_mm for a in rows_of(site) if a.subject == subject)


@pytest.fixture
def points(tmp_path) -> list[Path]:
    """The marks of sub-001 and sub-002, a file each."""
    return [written.markups(tmp_path / f"points/sub-{n}.mrk.json") for n in ("001", "002")]


def test_marks_are_added_once(site, points):
    outcome = import_marks(points, site, AB)
    assert outcome.added == 6 and [line.becomes for line in outcome.lines] == ["3 cmb", "3 cmb"]
    assert centres(site, "sub-001") == centres(site, "sub-002") == sorted(BLOBS_MM)
    assert {(a.rater, a.diameter_mm, a.label) for a in rows_of(site)} == {("AB", 4.0, "cmb")}
    assert read_readings(reading_file(site, "AB")).annotations == sorted(rows_of(site), key=lambda a: (a.subject, a.centre_mm))
    before = state(site)
    again = import_marks(points, site, AB)
    assert again.added == 0 and [line.becomes for line in again.lines] == ["3 already there"] * 2
    assert state(site) == before


def test_the_dataset_is_accepted_by_ingest(site, points):
    import_marks(points, site, Options(rater="AB"), others_empty=True)
    index = index_datasets(site.parent)
    assert [entry["n_cmbs"] for entry in index["scans"]] == [3, 3, 0, 0] and "unread" not in index


def test_a_dry_run_writes_nothing(site, points):
    before = state(site)
    assert import_marks(points, site, AB, dry_run=True).added == 6
    assert state(site) == before


def test_a_folder_of_files(site, points):
    (points[0].parent / "notes.docx").write_text("")
    lines = import_marks([points[0].parent], site, AB).lines
    assert [line.becomes for line in lines] == ["skipped: not of a known form", "3 cmb", "3 cmb"]
    (site.parent / "words").mkdir()
    (site.parent / "words/notes.docx").write_text("")
    with refused("import-nothing", got="1 files of other forms"):
        import_marks([site.parent / "words"], site, AB)


@pytest.mark.parametrize("kind", ["mask", "dou", "table"])
def test_other_forms(site, tmp_path, kind):
    """sub-002 is stored as LAS: index i of AFFINE's array is 79 - i there."""
    las = [(79 - i, j, k) for i, j, k in written.SPOT_VOX]
    options = Options(frame="voxel0", diameter_mm=3.0, rater="AB")
    if kind == "mask":
        files = [
            written.mask(tmp_path / "sub-001_space-T2S_CMB.nii.gz", written.labels()),
            written.mask(tmp_path / "sub-002_space-T2S_CMB.nii.gz", written.labels(las), LAS),
        ]
        options = AB
    elif kind == "dou":
        files = [written.dou(tmp_path / "001.mat", written.SPOT_VOX), written.dou(tmp_path / "002.mat", las)]
    else:
        lines = [f"{subject},{i},{j},{k}" for subject, spots in ((1, written.SPOT_VOX), (2, las)) for i, j, k in spots]
        files = [written.text(tmp_path / "marks.csv", "Patient,x,y,z", *lines)]
    import_marks(files, site, options)
    assert centres(site, "sub-001") == centres(site, "sub-002") == sorted(BLOBS_MM)


def test_empty_readings(site, tmp_path):
    files = [written.mask(tmp_path / "sub-001.nii.gz", written.labels((), ())), written.markups(tmp_path / "sub-002.mrk.json", [])]
    outcome = import_marks(files, site, AB)
    assert [line.becomes for line in outcome.lines] == ["read, nothing found"] * 2
    assert read_readings(site / "annotations.csv").empty == [EmptyReading("sub-001", "", "AB"), EmptyReading("sub-002", "", "AB")]
    assert import_marks(files, site, AB).added == 0


def test_the_others_were_read_too(site, points):
    outcome = import_marks(points[:1], site, AB, others_empty=True)
    assert outcome.added == 3 + 3
    empty = {(e.subject, e.session, e.rater) for e in read_readings(site / "annotations.csv").empty}
    assert empty == {("sub-002", "", "AB"), ("sub-003", "ses-01", "AB"), ("sub-003", "ses-02", "AB")}
    assert import_marks(points[:1], site, AB, others_empty=True).added == 0


@pytest.mark.parametrize(("wrong", "right"), [("lps", "ras"), ("ras", "lps")])
def test_another_frame_is_named(site, tmp_path, wrong, right):
    places = written.in_frame(BLOBS_MM, right.upper())
    lines = [f"sub-{n},{x},{y},{z},4" for n in ("001", "002") for x, y, z in places]
    file = written.text(tmp_path / "marks.csv", "subject,x,y,z,size", *lines)
    before = state(site)
    with refused("annotation-frame", case="marks.csv", got=f"6 of 6 read as {right.upper()}") as caught:
        import_marks([file], site, Options(frame=wrong))
    assert caught.value.remedy == f"pass --frame {right}" and state(site) == before
    import_marks([file], site, Options(frame=right))


def test_voxels_that_count_from_one_read_as_from_zero(site, tmp_path):
    """Microbleeds of one voxel, 12 of them: one read a voxel off is tissue."""
    lines = []
    for key, name in {"001": "sub-001/swi/sub-001_swi.nii.gz", "002": "sub-002/swi/sub-002_swi.nii.gz"}.items():
        volume = head((), seed=int(key))
        spots = [(i, j, k) for i in (30, 40, 50) for j in (35, 45) for k in (16,)]
        for spot in spots:
            volume.data[spot] = 60
        (site / name).unlink()
        write_volume(site / name, volume)
        lines += [f"{key},{i + 1},{j + 1},{k + 1}" for i, j, k in spots]
    file = written.text(tmp_path / "marks.csv", "scan,i,j,k", *lines)
    with refused("annotation-frame", got="12 of 12 read as voxel indices from 1") as caught:
        import_marks([file], site, Options(frame="voxel0", diameter_mm=2.5))
    assert caught.value.remedy == "pass --frame voxel1"
    assert import_marks([file], site, Options(frame="voxel1", diameter_mm=2.5)).added == 12


def test_all_faults_are_listed_and_nothing_is_written(site, tmp_path, points):
    far = written.markups(tmp_path / "sub-003_ses-01.mrk.json", [(0, 0, 500)])
    stranger = written.markups(tmp_path / "sub-009.mrk.json")
    other_grid = written.mask(tmp_path / "sub-003_ses-02.nii.gz", np.zeros((80, 80, 30)))
    broken = written.text(tmp_path / "sub-001.fcsv", "")
    before = state(site)
    with refused("dataset-faults", got="4 faults") as caught:
        import_marks([*points, far, stranger, other_grid, broken, tmp_path / "none.csv"][:-1], site, AB)
    for name in ("sub-003_ses-01.mrk.json", "sub-009.mrk.json", "sub-003_ses-02.nii.gz", "sub-001.fcsv"):
        assert name in caught.value.got
    assert str(caught.value).endswith("\ncorrect all of these")
    assert state(site) == before


def test_faults_of_a_kind_are_one(site, tmp_path):
    files = [written.markups(tmp_path / f"sub-{n}.mrk.json", description="") for n in ("001", "002")]
    with refused("marks-option", case=r"sub-001.mrk.json, .*sub-002.mrk.json"):
        import_marks(files, site, AB)


def test_strangers_in_a_table_are_one_fault(site, tmp_path):
    file = written.text(tmp_path / "marks.csv", "subject,x_mm,y_mm,z_mm,size", *(f"{n},1,2,3,4" for n in range(4711, 4718)))
    with refused("marks-unmatched", case="marks.csv$", got="^4711, 4712, 4713, 4714, 4715 and 2 more$"):
        import_marks([file], site, AB)


def test_marks_outside_are_explained_by_the_frame(site, tmp_path):
    """Two of the three indices lie outside the scan as millimetres."""
    lines = [f"001,{i},{j},{k},3" for i, j, k in written.SPOT_VOX] + [f"003_ses-01,{i},{j},{k},3" for i, j, k in written.SPOT_VOX]
    file = written.text(tmp_path / "marks.csv", "scan,x,y,z,size", *lines)
    with refused("annotation-frame", got="6 of 6 read as voxel indices from 0"):
        import_marks([file], site, Options(frame="ras"))


def test_only_microbleeds_must_be_dark(site, tmp_path):
    """Calcifications may be bright: six where another frame has dark spots are accepted."""
    lines = [f"{n},,{-x},{-y},{z},4,mimic:calcification,AB" for n in (1, 2) for x, y, z in BLOBS_MM]
    assert import_marks([written.text(tmp_path / "a.csv", HEADER, *lines)], site).added == 6


@pytest.mark.parametrize(("apart_mm", "becomes"), [(0.09, "1 already there"), (0.11, None), (2.1, None)])
def test_what_is_the_same_mark(site, tmp_path, apart_mm, becomes):
    import_marks([written.text(tmp_path / "a.csv", HEADER, "1,,0,0,0,4,cmb,AB")], site)
    again = written.text(tmp_path / "b.csv", HEADER, f"1,,0,{apart_mm},0,4,cmb,AB")
    if becomes:
        assert import_marks([again], site).lines[0].becomes == becomes
    else:
        with refused("annotation-repeated"):
            import_marks([again], site)


def test_a_rater_does_not_contradict_oneself(site, tmp_path):
    marked = written.text(tmp_path / "a.csv", HEADER, "1,,0,0,0,4,cmb,AB")
    empty = written.text(tmp_path / "b.csv", HEADER, "1,,,,,,none,AB")
    with refused("annotations-invalid", got="AB with both"):
        import_marks([marked, empty], site)
    import_marks([empty], site)
    with refused("annotations-invalid", got="AB with both"):
        import_marks([marked], site)
    other = written.text(tmp_path / "c.csv", HEADER, "1,,0,0,0,4,cmb,CD")
    with refused("marks-rater", got="others of AB"):
        import_marks([marked, other], site, consensus=True)


def test_a_lesion_is_marked_once(site, tmp_path):
    twice = written.text(tmp_path / "a.csv", HEADER, "sub-001,,0,0,0,4,cmb,AB", "sub-001,,1,0,0,4,cmb,AB")
    with refused("annotation-repeated", got="cmb and cmb within 2 mm"):
        import_marks([twice], site)
    import_marks([written.text(tmp_path / "b.csv", HEADER, "sub-001,,0,0,0,4,cmb,AB")], site)
    other_label = written.text(tmp_path / "c.csv", HEADER, "sub-001,,0.5,0,0,4,mimic:vein,AB")
    with refused("annotation-repeated", got="only in the file mimic:vein .*; only in annotations.csv cmb"):
        import_marks([other_label], site)
    with refused("annotations-invalid", got="AB with both"):
        import_marks([written.text(tmp_path / "d.csv", HEADER, "sub-001,,,,,,none,AB")], site)


def test_a_revised_reading_replaces_the_earlier_if_that_is_said(site, tmp_path):
    """One mark moved by 2.5 mm, one deleted, one of another diameter; sub-002 is not read again, and sub-003 found empty."""
    others = ("sub-002,,0,0,0,4,cmb,AB", "sub-003,1,0,0,0,4,cmb,AB")
    lines = ("sub-001,,0,0,0,4,cmb,AB", "sub-001,,20,0,0,4,cmb,AB", "sub-001,,0,20,0,3,cmb,AB")
    import_marks([written.text(tmp_path / "a.csv", HEADER, *lines, *others)], site)
    revised = ("sub-001,,2.5,0,0,4,cmb,AB", "sub-001,,0,20,0,4,cmb,AB")
    file = written.text(tmp_path / "b.csv", HEADER, *revised)
    before = state(site)
    with refused(
        "annotation-repeated", got=r"4 mm at \(2.5, .*4 mm at \(0.0, 20.*only in ann.*\(0.0, 0.*\(20.0, .*3 mm at"
    ) as caught:
        import_marks([file], site)
    assert "--replace" in caught.value.remedy and state(site) == before
    file = written.text(tmp_path / "b.csv", HEADER, *revised, "sub-003,1,,,,,none,AB")
    shown = cmb("import", "marks", str(file), "--into", str(site), "--replace")
    assert shown.exit_code == 0, shown.output
    expected = [("sub-001", 0, 4), ("sub-001", 2.5, 4), ("sub-002", 0, 4)]
    for path in (site / "annotations.csv", reading_file(site, "AB")):
        assert sorted((a.subject, a.x_mm, a.diameter_mm) for a in read_readings(path).annotations) == expected
        assert read_readings(path).empty == [EmptyReading("sub-003", "ses-01", "AB")]
    before = state(site)
    assert import_marks([file], site, replace_earlier=True).added == 0 and state(site) == before


def test_a_reading_replaces_no_other_raters(site, points):
    import_marks(points, site, AB)
    with refused("marks-rater", got="AB and CD"):
        import_marks(points, site, CD, replace_earlier=True)


def test_a_consensus_replaces_the_earlier_readings_of_its_raters_alone(site, tmp_path):
    files = {r: written.text(tmp_path / f"{r}.csv", HEADER, f"001,,0,0,0,4,cmb,{r}") for r in "ABC"}
    import_marks([files["A"], files["B"]], site, consensus=True)
    written.text(files["B"], HEADER, "001,,20,0,0,4,cmb,B")
    with refused("marks-rater", got=r"others of A\+B"):
        import_marks([files["A"], files["C"]], site, consensus=True, replace_earlier=True)
    import_marks([files["A"], files["B"]], site, consensus=True, replace_earlier=True)
    assert [(a.x_mm, a.label) for a in rows_of(site)] == [(0, "possible"), (20, "possible")]


def test_several_raters_need_a_consensus(site, points, tmp_path):
    import_marks(points, site, AB)
    with refused("marks-rater", case="site_sub-001, site_sub-002", got="AB and CD") as caught:
        import_marks(points, site, CD)
    assert "--consensus" in caught.value.remedy
    both = written.text(tmp_path / "a.csv", HEADER, "sub-003,1,0,0,0,4,cmb,AB", "sub-003,1,,,,,none,CD")
    with refused("marks-rater", got="AB and CD"):
        import_marks([both], site)
    empty = written.text(tmp_path / "b.csv", HEADER, "sub-003,2,,,,,none,AB", "sub-003,2,,,,,none,CD")
    assert import_marks([empty], site).added == 2


def test_consensus(site, tmp_path):
    """A and B agree on a microbleed and on an empty scan, and each has one of their own."""
    a = written.text(tmp_path / "A.csv", HEADER, "001,,0,0,0,4,cmb,", "001,,10,0,0,4,cmb,", "002,,,,,,none,")
    b = written.text(tmp_path / "B.csv", HEADER, "001,,1,0,0,3,cmb,", "001,,20,0,0,4,cmb,", "002,,,,,,none,")
    import_marks([a], site, Options(rater="A"))
    kept = reading_file(site, "A")
    outcome = import_marks([kept, b], site, consensus=True)
    rows = [(r.x_mm, r.diameter_mm, r.label, r.rater) for r in rows_of(site)]
    assert rows == [(0.5, 3.5, "cmb", "A+B"), (10, 4, "possible", "A+B"), (20, 4, "possible", "A+B")]
    assert read_readings(site / "annotations.csv").empty == [EmptyReading("sub-002", "", "A+B")]
    (pair,) = outcome.agreement.pairs
    assert (pair.marks, pair.matched, pair.positive_agreement, pair.kappa) == ((2, 2), 1, 0.5, 1.0)
    assert len(read_readings(reading_file(site, "B")).annotations) == 2
    before = state(site)
    assert import_marks([kept, b], site, consensus=True).added == 0 and state(site) == before
    with refused("marks-rater", got=r"others of A\+B"):
        import_marks([kept, written.text(tmp_path / "C.csv", *b.read_text().splitlines())], site, consensus=True)


@pytest.mark.parametrize(
    ("raters", "got"), [(("AB", "ab", "CD"), "AB and ab"), (("A.B.", "AB"), "A.B. and AB"), (("A+B", "A"), r"one by A\+B")]
)
def test_a_consensus_counts_no_rater_twice(site, tmp_path, raters, got):
    file = written.text(tmp_path / "all.csv", HEADER, *(f"001,,0,0,0,4,cmb,{rater}" for rater in raters))
    before = state(site)
    with refused("marks-rater", got=got):
        import_marks([file], site, consensus=True)
    assert state(site) == before


def test_a_consensus_loses_no_row(site, tmp_path):
    """Neither marks that its files do not have, nor an earlier consensus that was revised."""
    a = written.text(tmp_path / "A.csv", HEADER, "001,,0,0,0,4,cmb,A", "001,,10,0,0,4,cmb,A")
    b = written.text(tmp_path / "B.csv", HEADER, "001,,0,0,0,4,cmb,B")
    import_marks([a], site)
    less = written.text(tmp_path / "less.csv", HEADER, "001,,0,0,0,4,cmb,A")
    before = state(site)
    with refused("marks-rater", got="others of A"):
        import_marks([less, b], site, consensus=True)
    assert state(site) == before
    import_marks([a, b], site, consensus=True)
    path = site / "annotations.csv"
    path.write_text(path.read_text().replace("possible", "cmb"))
    with refused("marks-rater", got=r"others of A\+B"):
        import_marks([a, b], site, consensus=True)


def test_scans_of_an_earlier_consensus_were_read(site, tmp_path):
    for reader in "AB":
        written.text(tmp_path / f"{reader}.csv", HEADER, "001,,0,0,0,4,cmb,")
        written.text(tmp_path / f"later/{reader}.csv", HEADER, "002,,0,0,0,4,cmb,")
    import_marks([tmp_path / "A.csv", tmp_path / "B.csv"], site, consensus=True)
    import_marks([tmp_path / "later/A.csv", tmp_path / "later/B.csv"], site, consensus=True, others_empty=True)
    assert [(a.subject, a.rater) for a in rows_of(site)] == [("sub-001", "A+B"), ("sub-002", "A+B")]
    assert len(read_readings(site / "annotations.csv").empty) == 2


def test_what_another_rater_marked_is_not_empty(site, points):
    import_marks(points[:1], site, CD)
    with refused("marks-rater", case="site_sub-001", got="AB and CD"):
        import_marks(points[1:], site, AB, others_empty=True)


def test_consensus_of_folders_of_masks(site, tmp_path):
    for reader in ("A", "B"):
        written.mask(tmp_path / reader / "sub-001.nii.gz", written.labels())
        written.mask(tmp_path / reader / "sub-002.nii.gz", written.labels((), ()))
    import_marks([tmp_path / "A", tmp_path / "B"], site, consensus=True)
    assert {(a.subject, a.label, a.rater) for a in rows_of(site)} == {("sub-001", "cmb", "A+B")} and len(rows_of(site)) == 3


def test_raters_are_named_by_their_files_or_folders(site, tmp_path):
    files = [written.text(tmp_path / f"{reader}/marks.csv", HEADER, "1,,0,0,0,4,cmb,") for reader in "AB"]
    with refused("options-conflict", case="--rater", got="AB"):
        import_marks(files, site, AB, consensus=True)
    import_marks(files, site, consensus=True)
    assert [a.rater for a in rows_of(site)] == ["A+B"]


def test_what_one_alone_read_has_no_consensus(site, tmp_path):
    a = written.text(tmp_path / "A.csv", HEADER, "001,,0,0,0,4,cmb,", "002,,0,0,0,4,cmb,")
    b = written.text(tmp_path / "B.csv", HEADER, "001,,0,0,0,4,cmb,")
    with refused("marks-rater", case="site_sub-002", got="one by A alone"):
        import_marks([a, b], site, consensus=True)
    import_marks([a, b], site, consensus=True, others_empty=True)
    assert [(r.subject, r.label) for r in rows_of(site)] == [("sub-001", "cmb"), ("sub-002", "possible")]


def test_what_is_in_annotations_stays_as_it_is_written(site, points):
    """Semicolons, decimal commas, a mark of byte order, a column of the site's own."""
    old = "\ufeffsep=;\nsubject;session;x_mm;y_mm;z_mm;diameter_mm;label;rater;remark\nsub-003;ses-01;1,5;2;3;4;cmb;XY;seen twice\n"
    (site / "annotations.csv").write_text(old, encoding="utf-8")
    import_marks(points[:1], site, AB)
    text = (site / "annotations.csv").read_text(encoding="utf-8")
    assert text.startswith(old) and "sub-001;;-10,0000;-5,0000;0,0000;4,0000;cmb;AB;\n" in text
    assert len(rows_of(site)) == 4


def test_one_file_of_a_named_scan(site, tmp_path):
    file = written.markups(tmp_path / "points.mrk.json")
    import_marks([file], site, Options(subject="003", session="ses-02"))
    assert {(a.subject, a.session) for a in rows_of(site)} == {("sub-003", "ses-02")}
    with refused("options-conflict", got="2 files"):
        import_marks([file, file], site, Options(subject="003"))


def test_names_from_before_the_import(site, tmp_path):
    """With the key file of the import of the scans; whose patients they are is written nowhere."""
    key = Key(tmp_path / "keys/site.json", "00" * 32, {"sub-001": Patient("file PAT07"), "sub-002": Patient("081547")})
    key.save()
    lines = [f"{name},{x},{y},{z},4" for name in ("PAT07", "081547") for x, y, z in BLOBS_MM]
    file = written.text(tmp_path / "marks.csv", "Patient,x_mm,y_mm,z_mm,diameter", *lines)
    with refused("marks-unmatched"):
        import_marks([file], site, AB)
    arguments = ["import", "marks", str(file), "--into", str(site), "--key"]
    assert cmb(*arguments, str(tmp_path / "none.json")).exception.code == "file-not-found"
    assert cmb(*arguments, str(key.path)).exit_code == 0
    assert centres(site, "sub-001") == centres(site, "sub-002") == sorted(BLOBS_MM)
    assert not any(b"PAT07" in content or b"081547" in content for _, content in state(site).values())


def test_without_a_dataset(tmp_path, points):
    with refused("file-not-found"):
        import_marks(points, tmp_path / "none", AB)
    assert not (tmp_path / "none").exists()


def test_the_command(site, points):
    arguments = ["import", "marks", *map(str, points), "--into", str(site), "--rater", "AB"]
    shown = cmb(*arguments, "--dry-run")
    assert shown.exit_code == 0 and "2 scans; 6 rows added (nothing written)" in shown.output
    result = json.loads(cmb(*arguments, "--json").output)
    assert result["added"] == 6 and result["lines"][0]["form"] == "markups"
    for option in (["--from", "dicom"], ["--label", "1"], ["--column", "x="], ["--frame", "mni"]):
        failed = cmb(*arguments, *option)
        assert failed.exception.code == "setting-invalid"


def test_the_command_reports_agreement(site, tmp_path):
    for reader in "AB":
        written.text(tmp_path / f"{reader}.csv", HEADER, "1,,0,0,0,4,cmb,", "2,,,,,,none,")
    shown = cmb("import", "marks", "--consensus", f"{tmp_path}/A.csv", f"{tmp_path}/B.csv", "--into", str(site))
    assert "1 and 1 microbleed, 1 of them the same, positive agreement 1; scans with microbleeds: Cohen's kappa 1" in shown.output
    assert "microbleeds per scan: ICC(A,1) 1" in shown.output
