"""Atomic files: whole or absent, and the old one stays when writing the new one fails."""

import errno
import fcntl
import json
from pathlib import Path

import pytest

from cmb_models.files import atomic_directory, atomic_write, claimed, read_json, sha256_of, write_json, write_text
from tests.support.refused import refused


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_a_new_file_and_its_folder(tmp_path):
    write_text(tmp_path / "deep" / "er" / "a.txt", "grün")
    assert (tmp_path / "deep/er/a.txt").read_bytes() == "grün".encode()
    assert (tmp_path / "deep/er/a.txt").stat().st_mode & 0o777 == 0o644
    assert names(tmp_path / "deep/er") == ["a.txt"]


def test_the_temporary_name_keeps_the_suffixes(tmp_path):
    with atomic_write(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.name.endswith("scan.nii.gz") and temporary.parent == tmp_path


def test_failure_leaves_the_old_file_and_no_other(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_folder_swap_leaves_nothing_of_the_old_one(tmp_path):
    for content in ("old", "new"):
        with atomic_directory(tmp_path / "f") as temporary:
            (temporary / content).mkdir()
            (temporary / content / "a").write_text(content)
    assert names(tmp_path) == ["f"] and names(tmp_path / "f") == ["new"]
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o755


def test_failure_leaves_the_old_folder_and_no_other(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "f") as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["f"] and (tmp_path / "f/a").read_text() == "old"


def test_the_old_folder_is_never_seen_half_removed(tmp_path, monkeypatch):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_text("old")

    def killed(path, **_):
        assert path != tmp_path / "f", "removed under its real name"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "f") as temporary:
        (temporary / "a").write_text("new")
        monkeypatch.setattr("cmb_models.files.shutil.rmtree", killed)
    assert (tmp_path / "f/a").read_text() == "new"


def test_json_round_trip_is_sorted_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 0.1], "a": None})
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [1, 0.1]}
    assert (tmp_path / "a.json").read_text().index('"a"') < (tmp_path / "a.json").read_text().index('"b"')
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text())["b"] == [1, 0.1]


def test_sha256_of_abc(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-4
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_read_only_files_are_synced_without_opening_them_for_writing(tmp_path, monkeypatch):
    """Users other than root could not open them so."""
    modes, open_file = [], Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *args, **kw: modes.append(mode) or open_file(self, mode, *args, **kw))
    with atomic_directory(tmp_path / "folder") as folder:
        (folder / "file").write_bytes(b"x")
        (folder / "file").chmod(0o444)
        modes.clear()
    assert modes == ["rb"]


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("folder-not-writable", case="file"):
        write_text(tmp_path / "file/inside.txt", "x")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    """NFS without lockd, and Lustre without the mount option flock."""

    def refuse(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with refused("system-unsupported", case="lock") as caught, claimed(tmp_path / "lock", "test"):
        pass
    assert "local disk" in caught.value.remedy
