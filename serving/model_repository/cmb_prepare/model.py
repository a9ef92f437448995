"""First step: refuse what is no SWI scan, bring the rest to the working grid. All of it is cmb_models.detect.preprocess."""

import numpy as np
from step import EXTENT, GRID_AFFINE, IMAGE, read_pipeline, respond

from cmb_models.client.contract import AFFINE, VOLUME
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.volume import Volume

CASE = "scan"  # the server is told no file name; the client puts its own in


class TritonPythonModel:
    def initialize(self, args):
        self.settings = read_pipeline(args).preprocess

    def execute(self, requests):
        return respond(requests, (IMAGE, GRID_AFFINE, EXTENT), self.prepare)

    def prepare(self, inputs):
        """volume (I, J, K) float32 as stored and affine (4, 4) to the image (1, 1, I', J', K'), its affine and unpadded extent."""
        try:
            volume = Volume(inputs[VOLUME.name], inputs[AFFINE.name])
        except ValueError as error:
            raise InputError(CASE, "a volume and its affine", str(error), "check the scan's header") from error
        prepared = prepare(volume, self.settings, CASE)
        return prepared.image[None, None], prepared.affine, np.asarray(prepared.shape)
