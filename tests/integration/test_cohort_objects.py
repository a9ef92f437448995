"""Scans of a cohort in a real S3 server: listed before any is read, fetched one by one, and what is said when it is away."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from s3fs import S3FileSystem

from cmb_models.cohort import objects
from cmb_models.cohort.manifest import read_manifest
from cmb_models.cohort.reading import read_images
from cmb_models.io.nifti import read_volume, write_volume
from tests.integration.object_store import ObjectStore, client, running_store
from tests.support.bundles import head, head_phase
from tests.support.refused import refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A bucket with two scans, one with its phase image, and a file that is cut off."""
    folder = tmp_path_factory.mktemp("store")
    with running_store(folder, "scans") as running:
        s3 = client(running.url, "s3", running.key_id, running.secret)
        write_volume(folder / "a_swi.nii.gz", head(seed=1), np.int16)
        write_volume(folder / "a_phase.nii.gz", head_phase(seed=1), np.int16)
        (folder / "cut_swi.nii.gz").write_bytes((folder / "a_swi.nii.gz").read_bytes()[:500])
        for name in ("a_swi", "a_phase", "cut_swi"):
            s3.upload_file(str(folder / f"{name}.nii.gz"), "scans", f"site/{name}.nii.gz")
        yield running, folder


@pytest.fixture
def access(store, monkeypatch):
    """The user's variables, and no connection of an earlier test."""
    running, _ = store
    S3FileSystem.clear_instance_cache()
    for name, value in {**running.variables, "AWS_ENDPOINT_URL": running.url, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    return running


def manifest(folder, *rows: str):
    (folder / "list.csv").write_text("\n".join(["scan,phase", *rows]) + "\n")
    return folder / "list.csv"


def test_objects_are_read_as_files_are(store, access: ObjectStore, tmp_path):
    (scan,) = read_manifest(manifest(tmp_path, "s3://scans/site/a_swi.nii.gz,s3://scans/site/a_phase.nii.gz"))
    assert (scan.name, scan.path) == ("a_swi", "s3://scans/site/a_swi.nii.gz")
    volume, phase = read_images(scan, requires_phase=True)
    assert volume == read_volume(store[1] / "a_swi.nii.gz") and phase == read_volume(store[1] / "a_phase.nii.gz")
    assert read_images(scan, requires_phase=False)[1] is None


def test_what_is_missing_is_counted_and_a_fault_of_one_object_names_its_url(store, access: ObjectStore, tmp_path):
    with refused("manifest-invalid", got=r"2 not found \(s3://scans/site/none.nii, s3://scans/other/b.nii\)"):
        read_manifest(manifest(tmp_path, "s3://scans/site/none.nii", "s3://scans/site/a_swi.nii.gz", "s3://scans/other/b.nii"))
    write_volume(tmp_path / "own.nii", head())
    with refused("manifest-invalid", got="1 phase images of another kind"):
        read_manifest(manifest(tmp_path, "own.nii,s3://scans/site/a_phase.nii.gz"))
    cut, alone = read_manifest(manifest(tmp_path, "s3://scans/site/cut_swi.nii.gz", "s3://scans/site/a_swi.nii.gz"))
    with refused("scan-file", case="s3://scans/site/cut_swi.nii.gz"):
        read_images(cut, requires_phase=False)
    with refused("phase-missing", case="s3://scans/site/a_swi.nii.gz"):
        read_images(alone, requires_phase=True)
    with refused("file-not-found", case="s3://scans/site/none.nii"), objects.fetched(["s3://scans/site/none.nii"]):
        pass


def test_wrong_credentials_a_missing_package_and_an_unknown_kind_are_named(access: ObjectStore, tmp_path, monkeypatch):
    one = manifest(tmp_path, "s3://scans/site/a_swi.nii.gz")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with refused("storage-unreachable", case="s3://scans/site"):
        read_manifest(one)
    with refused("manifest-invalid", case="nonsense://"):
        read_manifest(manifest(tmp_path, "nonsense://scans/a.nii"))
    with refused("package-missing", case="gs://"):
        read_manifest(manifest(tmp_path, "gs://scans/a.nii"))


def test_one_object_that_is_refused_is_a_fault_of_its_scan(access: ObjectStore, tmp_path, monkeypatch):
    """As archived ones are; the others of its prefix can be read."""
    refused_one, other = read_manifest(manifest(tmp_path, "s3://scans/site/a_swi.nii.gz", "s3://scans/site/cut_swi.nii.gz"))
    get = S3FileSystem._get_file

    async def deny(self, place, *rest, **names):
        if "a_swi" in place:
            raise PermissionError("The operation is not valid for the object's storage class")
        return await get(self, place, *rest, **names)

    monkeypatch.setattr(S3FileSystem, "_get_file", deny)
    S3FileSystem.clear_instance_cache()  # which has the old method
    with refused("scan-file", case="a_swi.nii.gz", got="storage class"):
        read_images(refused_one, requires_phase=False)
    with objects.fetched([other.path]) as files:
        assert files[0].stat().st_size == 500


def test_room_for_a_scan_is_no_fault_of_the_storage(access: ObjectStore, tmp_path, monkeypatch):
    (scan,) = read_manifest(manifest(tmp_path, "s3://scans/site/a_swi.nii.gz"))

    async def full(*_args, **_names):
        raise OSError(errno.ENOSPC, "No space left on device")

    def none(*_args, **_names):
        raise OSError(errno.ENOSPC, "No space left on device")

    for what in ((S3FileSystem, "_get_file", full), (objects.tempfile, "TemporaryDirectory", none)):
        with monkeypatch.context() as patch:
            patch.setattr(*what)
            S3FileSystem.clear_instance_cache()
            with refused("disk-full"):
                read_images(scan, requires_phase=False)


def test_storage_that_is_away_ends_the_run(access: ObjectStore, tmp_path, monkeypatch):
    """And is no fault of the scan."""
    (scan,) = read_manifest(manifest(tmp_path, "s3://scans/site/a_swi.nii.gz"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    with refused("storage-unreachable", case="s3://scans/site/a_swi.nii.gz"):
        read_images(scan, requires_phase=False)
