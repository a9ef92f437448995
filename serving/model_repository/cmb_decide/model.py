"""Last step: fuse both stages' scores and add the release (cmb_models.detect.detector.decide)."""

import numpy as np

from cmb_models.client.contract import AFFINE, OUTPUTS, pack
from cmb_models.detect.detector import CandidateList, decide
from cmb_models.detection import DetectionResult
from cmb_models.serving.triton.request_reporter import RequestReporter
from cmb_models.serving.triton.request_trace import Trace
from cmb_models.serving.triton.step import (
    CNN_SCORE,
    FOUND_DIAMETER,
    FOUND_INDEX,
    FOUND_MM,
    FOUND_SCORE,
    TRACE_FOUND,
    read_pipeline,
    respond,
)


class TritonPythonModel:
    def initialize(self, args):
        self.decision = read_pipeline(args).decision
        self.reporter = RequestReporter(args)

    def finalize(self):
        self.reporter.close()

    def execute(self, requests):
        return respond(requests, OUTPUTS, self.decide)

    def decide(self, inputs):
        """N candidates and the CNN's scores (max(N, 1),) to the contract's OUTPUTS."""
        trace = Trace.unpacked(inputs.get(TRACE_FOUND.name))
        trace.passed("cnn")
        with self.reporter.step(trace, "decide"):
            rows = self.rows(inputs)
            tensors = pack(DetectionResult(rows, self.decision.threshold, self.reporter.release, self.reporter.manifest_sha256))
        self.reporter.answered(trace, np.array([row.score for row in rows]), self.decision.threshold)
        return [tensors[t.name] for t in OUTPUTS]

    def rows(self, inputs):
        """The candidates with fused scores, best first."""
        found = CandidateList(*(inputs[t.name] for t in (FOUND_INDEX, FOUND_MM, FOUND_DIAMETER, FOUND_SCORE)))
        scores = inputs[CNN_SCORE.name][: len(found.stage1_score)]  # drops the blank patch's score without candidates
        return decide(found, scores, inputs[AFFINE.name], self.decision)
