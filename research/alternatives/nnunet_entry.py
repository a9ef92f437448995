"""Runs one of nnU-Net's commands in the Python that has it: python nnunet_entry.py plan|train|predict ARGUMENTS.

Imports nothing of this project. Called so, the commands are found whatever PATH says. Where $CMB_PRECISION is bfloat16, networks on
a CPU run in it as ours do, channels last, where nnU-Net itself keeps float32 (on CUDA it uses half precision): a step takes a third
of the time on a processor that has bfloat16. Logits leave them in float32, so losses are computed as ever. The closing validation
is left out: trained on "all" cases, it would predict those that it was trained on.
"""

from __future__ import annotations

import importlib
import os
import sys

TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
COMMANDS = {  # what its console scripts call
    "plan": "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints:plan_and_preprocess_entry",
    "train": "nnunetv2.run.run_training:run_training_entry",
    "predict": "nnunetv2.inference.predict_from_raw_data:predict_entry_point",
}
RUNS_NETWORKS = {"train": TRAINER, "predict": "nnunetv2.inference.predict_from_raw_data"}
NETWORKS = "dynamic_network_architectures.architectures"  # where the classes of whole networks are


def use_bfloat16(module) -> None:
    """Have a module of nnU-Net's run networks in bfloat16 where, off CUDA, it puts a context that does nothing."""
    import torch

    def channels_last(network, _):
        if type(network).__module__.startswith(NETWORKS):
            network.to(memory_format=torch.channels_last_3d)

    def in_float32(network, _, logits):
        """A whole network's logits in float32, also the several of deep supervision."""
        if not type(network).__module__.startswith(NETWORKS):
            return None
        return [level.float() for level in logits] if isinstance(logits, list | tuple) else logits.float()

    torch.nn.modules.module.register_module_forward_pre_hook(channels_last)
    torch.nn.modules.module.register_module_forward_hook(in_float32)
    module.dummy_context = lambda: torch.autocast("cpu", torch.bfloat16)


def main() -> None:
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "train":
        importlib.import_module(TRAINER).nnUNetTrainer.perform_actual_validation = lambda *_: None
    on_cpu = command in RUNS_NETWORKS and arguments[arguments.index("-device") + 1] == "cpu"
    if on_cpu and os.environ.get("CMB_PRECISION") == "bfloat16":
        use_bfloat16(importlib.import_module(RUNS_NETWORKS[command]))
    module, function = COMMANDS[command].split(":")
    sys.argv = [f"nnUNetv2_{command}", *arguments]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":  # nnU-Net starts processes of its own, which import this file again
    main()
