"""nnU-Net as alternative: its inputs, its commands and its answers. The package itself is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from cmb_models.dataset.layout import ScanFile
from cmb_models.errors import InputError
from cmb_models.files import write_json
from cmb_models.io.annotations import Annotation
from cmb_models.io.nifti import read_volume, write_volume
from cmb_models.volume import Volume
from research.alternatives import nnunet


def _scan_file(folder, subject: str, diameter: float = 4.0) -> ScanFile:
    path = folder / f"{subject}_swi.nii.gz"
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    write_volume(path, Volume(np.random.default_rng(0).normal(100, 5, (24, 20, 12)).astype(np.float32), affine))
    return ScanFile("pool", subject, "", path, (Annotation(subject, "", -10.0, 8.0, 12.0, diameter, "cmb", "r"),), True)


def test_nnunet_layout_holds_scans_masks_and_our_folds(tmp_path):
    scans = [_scan_file(tmp_path, f"sub-{n}") for n in (1, 2, 3)]
    nnunet.write_raw(tmp_path / "raw", scans[:2], scans[2:])
    files = {p.relative_to(tmp_path / "raw").as_posix() for p in (tmp_path / "raw").rglob("*.*")}
    images = {f"imagesTr/pool_sub-{n}_0000.nii.gz" for n in (1, 2)} | {"imagesTs/pool_sub-3_0000.nii.gz"}
    assert files == images | {f"labelsTr/pool_sub-{n}.nii.gz" for n in (1, 2)} | {"dataset.json"}
    mask = read_volume(tmp_path / "raw/labelsTr/pool_sub-1.nii.gz")
    assert mask.data[10, 8, 6] == 1 and set(np.unique(mask.data)) == {0, 1}
    assert np.array_equal(mask.affine, read_volume(tmp_path / "raw/imagesTr/pool_sub-1_0000.nii.gz").affine)
    cases = nnunet.splits(scans[:2], {"pool_sub-1": 0, "pool_sub-2": 1})
    assert cases[0] == {"train": ["pool_sub-2"], "val": ["pool_sub-1"]} and cases[1]["val"] == ["pool_sub-2"]


def test_nnunet_answers_are_read_in_its_axis_order(tmp_path):
    scan = _scan_file(tmp_path, "sub-1")
    probability = np.zeros((2, 12, 20, 24), dtype=np.float32)  # classes, k, j, i
    probability[0] = 1.0
    probability[:, 6, 8, 10] = 0.2, 0.8
    probability[:, 2, 2, 2] = 0.0, 1.0  # as sure as can be stored
    np.savez_compressed(tmp_path / "pool_sub-1.npz", probabilities=probability)
    found = nnunet.read_answer(tmp_path, scan)
    np.testing.assert_allclose(found.centres_mm, [[-2, 2, 4], [-10, 8, 12]])
    odds = np.log(4)
    assert found.scores.tolist() == pytest.approx([(1 + 87.498 / 88.498) / 2, (1 + odds / (1 + odds)) / 2])
    with pytest.raises(InputError, match="no such file"):
        nnunet.read_answer(tmp_path / "elsewhere", scan)


def test_nnunet_says_why_it_does_not_run():
    assert "cannot be run" in nnunet.unavailable("/nowhere/python")
    assert [nnunet.epochs_for(steps) for steps in (6100, 1900, 10)] == [20, 5, 1]


def test_nnunet_is_trained_on_the_sizes_and_draws_asked_for():
    some, all_of_them = nnunet.How(sizes=(15,), draws=1), nnunet.How()
    assert some.wants(15, 0) and not some.wants(15, 1) and not some.wants(10, 0)
    assert all_of_them.wants(3, 0) and all_of_them.wants(30, 2)


def test_nnunet_goes_on_with_what_was_not_done(tmp_path, monkeypatch):
    scans, called = [_scan_file(tmp_path, f"sub-{n}") for n in (1, 2, 3)], []

    def call(folder, python, command, *arguments):
        called.append((command, "--c" in arguments))
        checkpoints = folder / "results" / nnunet.NAME / "nnUNetTrainer_5epochs__nnUNetPlans1GB__3d_fullres/fold_all"
        if command == "plan":
            about = {"configurations": {"3d_fullres": {"patch_size": [32, 96, 96], "batch_size": 2}}}
            write_json(folder / "preprocessed" / nnunet.NAME / "nnUNetPlans1GB.json", about)
        elif command == "train":
            checkpoints.mkdir(parents=True, exist_ok=True)
            killed = len(called) == 2
            (checkpoints / f"checkpoint_{'latest' if killed else 'final'}.pth").touch()
            if killed:
                raise KeyboardInterrupt
        else:
            (folder / "answers").mkdir()
            nothing = np.stack([np.ones((12, 20, 24)), np.zeros((12, 20, 24))])
            np.savez_compressed(folder / "answers/pool_sub-3.npz", probabilities=nothing)

    monkeypatch.setattr(nnunet, "_call", call)
    monkeypatch.setattr(nnunet, "_has_cuda", lambda python: False)
    arguments = scans[:2], {"folds": {"pool_sub-1": 0, "pool_sub-2": 1}}, scans[2:], 1900, nnunet.How(memory_gb=1), tmp_path / "nn"
    with pytest.raises(KeyboardInterrupt):
        nnunet.run(*arguments)
    (found,), about = nnunet.run(*arguments)
    assert called == [("plan", False), ("train", False), ("train", True), ("predict", False)]
    assert len(found.scores) == 0 and about["steps"] == 1250 and about["patch_kji"] == [32, 96, 96] and not about["mirrored"]


NNUNET_LIKE = {  # as much of nnU-Net's package as its commands are found by, with a network that says what it computes in
    "dynamic_network_architectures/architectures/unet.py": """
        import torch
        class Net(torch.nn.Conv3d):
            def forward(self, x):
                said = super().forward(x)
                print(said.dtype, self.weight.is_contiguous(memory_format=torch.channels_last_3d))
                return [said, said]
    """,
    "nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py": """
        from contextlib import nullcontext as dummy_context
        class nnUNetTrainer:
            def perform_actual_validation(self, export):
                print("validated")
            def step(self):
                import torch
                from dynamic_network_architectures.architectures.unet import Net
                with dummy_context():
                    print([level.dtype for level in Net(2, 3, 3)(torch.zeros(1, 2, 4, 4, 4))])
    """,
    "nnunetv2/run/run_training.py": """
        import sys
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        def run_training_entry():
            nnUNetTrainer().step()
            nnUNetTrainer().perform_actual_validation(False)
            print(sys.argv)
    """,
}


@pytest.mark.parametrize(
    ("device", "precision", "inside"),
    [
        ("cpu", "bfloat16", "torch.bfloat16 True"),
        ("cpu", "float32", "torch.float32 False"),
        ("cuda", "bfloat16", "torch.float32 False"),
    ],
)
def test_nnunets_command_computes_in_bfloat16_on_a_cpu_that_has_it(tmp_path, device, precision, inside):
    for name, code in NNUNET_LIKE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(code), encoding="utf-8")
    line = [sys.executable, nnunet.ENTRY, "train", "501", "-device", device]
    done = subprocess.run(
        line,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CMB_PRECISION": precision},
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert said == [inside, "[torch.float32, torch.float32]", f"['nnUNetv2_train', '501', '-device', '{device}']"]
