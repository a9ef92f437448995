"""A physics-based SWI simulator: heads with veins, microbleeds and mimics, and datasets of them.

A subject (head, veins, lesions) is seen by a scanner as config and presets say: susceptibility -> field -> k-space -> images; scan
and dataset put it together. grid: boxes of voxels.
"""

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.dataset import write_dataset
from cmb_models.phantom.presets import PRESETS, draw_config
from cmb_models.phantom.scan import SimulatedScan, golden_scan, simulate_scan, simulate_subject

__all__ = [
    "PRESETS",
    "PhantomConfig",
    "SimulatedScan",
    "draw_config",
    "golden_scan",
    "simulate_scan",
    "simulate_subject",
    "write_dataset",
]
