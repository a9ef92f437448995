"""A physics-based SWI simulator: heads with veins, microbleeds and mimics, and datasets of them.

From susceptibility to SWI in the order template -> warp -> anatomy, veins -> field -> lesions -> acquisition -> scan -> dataset.
"""

from cmb_models.phantom.config import PhantomConfig
from cmb_models.phantom.dataset import write_dataset
from cmb_models.phantom.scan import SimulatedScan, golden_scan, simulate_scan

__all__ = ["PhantomConfig", "SimulatedScan", "golden_scan", "simulate_scan", "write_dataset"]
