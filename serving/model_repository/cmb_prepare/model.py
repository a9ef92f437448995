"""First step: refuse what is no SWI scan, bring the rest to the working grid. All of it is cmb_models.detect.preprocess."""

import numpy as np
from step import prepared, read_pipeline, respond

from cmb_models.client.contract import AFFINE, PHASE, VOLUME
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.volume import Volume

CASE = "scan"  # the server is told no file name; the client puts its own in


class TritonPythonModel:
    def initialize(self, args):
        self.settings = read_pipeline(args).preprocess

    def execute(self, requests):
        return respond(requests, prepared(self.settings.phase), self.prepare)

    def prepare(self, inputs):
        """volume (I, J, K) float32 as stored and affine (4, 4) to the image (1, 1, I', J', K'), its affine and unpadded extent.

        With phase (I, J, K), where the release uses it, also to the phase (I', J', K').
        """
        try:
            volume, *phase = (Volume(inputs[t.name], inputs[AFFINE.name]) for t in (VOLUME, PHASE) if t.name in inputs)
        except ValueError as error:
            raise InputError(CASE, "a volume and its affine", str(error), "check the scan's header") from error
        scan = prepare(volume, self.settings, CASE, *phase)
        found = (scan.image[None, None], scan.affine, np.asarray(scan.shape))
        return found if scan.phase is None else (*found, scan.phase)
