"""Last step: join both stages' scores and say which release answered. The joining is cmb_models.detect.detector.decide."""

from step import CNN_SCORE, FOUND_DIAMETER, FOUND_INDEX, FOUND_MM, FOUND_SCORE, RELEASE_FILE, read_pipeline, respond, version_folder

from cmb_models.client.contract import AFFINE, OUTPUTS, pack
from cmb_models.detect.detector import Found, decide
from cmb_models.detection import Answer
from cmb_models.files import read_json


class TritonPythonModel:
    def initialize(self, args):
        self.decision = read_pipeline(args).decision
        release = read_json(version_folder(args) / RELEASE_FILE)
        self.release, self.manifest_sha256 = release["release"], release["manifest_sha256"]

    def execute(self, requests):
        return respond(requests, OUTPUTS, self.decide)

    def decide(self, inputs):
        """N candidates and the CNN's scores (max(N, 1),) to the contract's OUTPUTS."""
        found = Found(*(inputs[t.name] for t in (FOUND_INDEX, FOUND_MM, FOUND_DIAMETER, FOUND_SCORE)))
        scores = inputs[CNN_SCORE.name][: len(found.stage1_score)]  # for no candidates, the blank patch's score goes
        rows = decide(found, scores, inputs[AFFINE.name], self.decision)
        tensors = pack(Answer(rows, self.decision.threshold, self.release, self.manifest_sha256))
        return [tensors[t.name] for t in OUTPUTS]
