"""Third step: candidates and their patches from the U-Net's heatmap (cmb_models.detect.detector.propose)."""

import numpy as np

from cmb_models.detect.detector import propose
from cmb_models.detect.preprocess import Prepared
from cmb_models.serving.triton.request_reporter import RequestReporter
from cmb_models.serving.triton.request_trace import Trace
from cmb_models.serving.triton.step import (
    EXTENT,
    FOUND,
    GRID_AFFINE,
    GRID_PHASE,
    HEATMAP,
    IMAGE,
    PATCHES,
    PATCHES_WITH_PHASE,
    TRACE,
    TRACE_FOUND,
    read_pipeline,
    respond,
)


class TritonPythonModel:
    def initialize(self, args):
        self.config = read_pipeline(args)
        self.reporter = RequestReporter(args)

    def finalize(self):
        self.reporter.close()

    def execute(self, requests):
        patches = PATCHES_WITH_PHASE if self.config.preprocess.phase else PATCHES
        return respond(requests, (patches, *FOUND, TRACE_FOUND), self.propose)

    def propose(self, inputs):
        """Heatmap and image (1, 1, I, J, K), and phase (I, J, K) if used, to patches (max(N, 1), C, *patch_vox) and the N
        candidates, with the request's trace."""
        trace = Trace.unpacked(inputs.get(TRACE.name))
        trace.passed("unet")
        with self.reporter.step(trace, "candidates"):
            found = self.found(inputs)
        return *found, trace.packed()

    def found(self, inputs):
        """Patches and candidates."""
        extent = tuple(int(n) for n in inputs[EXTENT.name])
        prepared = Prepared(inputs[IMAGE.name][0, 0], inputs[GRID_AFFINE.name], extent, inputs.get(GRID_PHASE.name))
        found, patches = propose(inputs[HEATMAP.name][0, 0], prepared, self.config)
        if not len(patches):
            patches = np.zeros((1, *patches.shape[1:]), dtype=patches.dtype)  # never an empty batch: see step.py
        return patches, found.index_vox, found.centre_mm, found.diameter_mm, found.stage1_score
