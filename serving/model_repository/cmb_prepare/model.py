"""First step: reject invalid scans and resample to the working grid (cmb_models.detect.preprocess)."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from cmb_models.client.contract import AFFINE, PHASE, VOLUME
from cmb_models.detect.preprocess import prepare
from cmb_models.errors import InputError
from cmb_models.io.scan_id import scan_sha256
from cmb_models.runtime.accelerator import host
from cmb_models.runtime.device import open_arrays, requested_device
from cmb_models.serving.triton.device_metric import DeviceMetric
from cmb_models.serving.triton.request_reporter import RequestReporter
from cmb_models.serving.triton.request_trace import PROBE, Trace
from cmb_models.serving.triton.step import card_of, prepared, read_pipeline, respond
from cmb_models.volume import Volume

CASE = "scan"  # the server gets no file name; the client fills in its own


class TritonPythonModel:
    def initialize(self, args):
        self.settings = read_pipeline(args).preprocess
        self.arrays = open_arrays(requested_device(), card_of(args))
        self.metric = DeviceMetric(args, self.arrays)
        self.reporter = RequestReporter(args)
        self.hashing = ThreadPoolExecutor(1, "hash")  # hash a scan during its preparation; both release the GIL

    def finalize(self):
        self.hashing.shutdown()
        self.reporter.close()

    def execute(self, requests):
        return respond(requests, prepared(self.settings.phase), self.prepare)

    def prepare(self, inputs):
        """volume (I, J, K) float32 as stored and affine (4, 4) to the image (1, 1, I', J', K'), its affine and unpadded extent.

        With phase (I, J, K), if the release uses it, also to the phase (I', J', K').
        """
        trace = Trace.begin(inputs)
        if self.is_golden(inputs):
            trace.role = PROBE
        self.reporter.started(trace)
        with self.reporter.step(trace, "prepare"):
            image, affine, extent, *phase = self.prepared(trace, inputs)
        return image, affine, extent, trace.packed(), *phase

    def is_golden(self, inputs):
        """Whether this is the golden scan of a deployment, which is not a client's request whatever the ensemble."""
        if list(inputs[VOLUME.name].shape) != self.reporter.golden.get("shape"):
            return False
        with contextlib.suppress(ValueError):
            return scan_sha256(Volume(inputs[VOLUME.name], inputs[AFFINE.name])) == self.reporter.golden["sha256"]
        return False

    def prepared(self, trace, inputs):
        """Prepare the scan and record it in the trace."""
        trace.shape = list(inputs[VOLUME.name].shape)
        try:
            volume, *phase = (Volume(inputs[t.name], inputs[AFFINE.name]) for t in (VOLUME, PHASE) if t.name in inputs)
        except ValueError as error:
            raise InputError("scan-geometry", CASE, "a volume and its affine", str(error), "check the scan's header") from error
        trace.spacing_mm = [round(s, 4) for s in volume.spacing_mm]
        hashed = self.hashing.submit(scan_sha256, volume)

        def prepared_on(arrays):
            scan = prepare(volume, self.settings, CASE, *phase, arrays=arrays)
            # Copied here, where faults of the device are seen: they may only show then.
            return replace(scan, image=host(scan.image), phase=None if scan.phase is None else host(scan.phase))

        try:
            scan = self.arrays.run(prepared_on, CASE)
        finally:
            trace.input_sha256 = hashed.result()
        arrays = (scan.image[None, None], scan.affine, np.asarray(scan.shape))
        return arrays if scan.phase is None else (*arrays, scan.phase)
