"""First step: refuse what is no SWI scan, bring the rest to the working grid. All of it is cmb_models.detect.preprocess."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cmb_models.client.contract import AFFINE, PHASE, VOLUME
from cmb_models.client.scan_id import scan_sha256
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.serving.triton.request_reporter import RequestReporter
from cmb_models.serving.triton.request_trace import PROBE, Trace
from cmb_models.serving.triton.step import prepared, read_pipeline, respond
from cmb_models.volume import Volume

CASE = "scan"  # the server is told no file name; the client puts its own in


class TritonPythonModel:
    def initialize(self, args):
        self.settings = read_pipeline(args).preprocess
        self.reporter = RequestReporter(args)
        self.beside = ThreadPoolExecutor(1, "hash")  # a scan is hashed while it is prepared; both leave the interpreter's lock

    def finalize(self):
        self.beside.shutdown()
        self.reporter.close()

    def execute(self, requests):
        return respond(requests, prepared(self.settings.phase), self.prepare)

    def prepare(self, inputs):
        """volume (I, J, K) float32 as stored and affine (4, 4) to the image (1, 1, I', J', K'), its affine and unpadded extent.

        With phase (I, J, K), where the release uses it, also to the phase (I', J', K').
        """
        trace = Trace.begin(inputs)
        if self.is_golden(inputs):
            trace.role = PROBE
        self.reporter.started(trace)
        with self.reporter.step(trace, "prepare"):
            image, affine, extent, *phase = self.prepared(trace, inputs)
        return image, affine, extent, trace.packed(), *phase

    def is_golden(self, inputs):
        """Whether this is the golden scan, with which deployments try a release: nobody's request, whichever ensemble has it."""
        if list(inputs[VOLUME.name].shape) != self.reporter.golden.get("shape"):
            return False
        with contextlib.suppress(ValueError):
            return scan_sha256(Volume(inputs[VOLUME.name], inputs[AFFINE.name])) == self.reporter.golden["sha256"]
        return False

    def prepared(self, trace, inputs):
        """The same without the trace, which learns of the scan."""
        trace.shape = list(inputs[VOLUME.name].shape)
        try:
            volume, *phase = (Volume(inputs[t.name], inputs[AFFINE.name]) for t in (VOLUME, PHASE) if t.name in inputs)
        except ValueError as error:
            raise InputError("scan-geometry", CASE, "a volume and its affine", str(error), "check the scan's header") from error
        trace.spacing_mm = [round(s, 4) for s in volume.spacing_mm]
        hashed = self.beside.submit(scan_sha256, volume)
        try:
            scan = prepare(volume, self.settings, CASE, *phase)
        finally:
            trace.input_sha256 = hashed.result()
        found = (scan.image[None, None], scan.affine, np.asarray(scan.shape))
        return found if scan.phase is None else (*found, scan.phase)
