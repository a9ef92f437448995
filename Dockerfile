# The server on GPU nodes: NVIDIA's Triton, whose own onnxruntime backend runs the networks, and this library without torch for
# the Python steps. NOT YET BUILT BY US: it was written for what the image is expected to hold (Ubuntu 24.04, Python 3.12,
# the onnxruntime backend, a user 1000), on a machine that could not fetch it. Build it, then run
# `python -m serving.smoke HOST:8001 SCAN.nii.gz` and tests of zero candidates on the GPU before relying on it.
# Pin the image by digest once it has been fetched.
FROM nvcr.io/nvidia/tritonserver:25.12-py3

# The same exact versions as the bundled server's environment, for the few packages that the Python steps import.
COPY serving/requirements.txt /opt/requirements.txt
RUN pip install --no-cache-dir --break-system-packages --constraint /opt/requirements.txt \
        numpy scipy nibabel pydantic pyyaml typer rich && rm /opt/requirements.txt

COPY pyproject.toml README.md /opt/cmb-models/
COPY cmb_models /opt/cmb-models/cmb_models
RUN pip install --no-cache-dir --break-system-packages --no-deps /opt/cmb-models && rm -r /opt/cmb-models

# Model repository: written by `cmb deploy --repository`, mounted read-only here.
VOLUME /models
USER 1000:1000
EXPOSE 8000 8001 8002

# Loading models is code execution, so it needs the key that `cmb deploy` reads from CMB_ADMIN_KEY; no key, no start. For TLS, add
# --grpc-use-ssl with its certificate arguments.
ENTRYPOINT ["/bin/sh", "-c", "exec tritonserver --model-repository=/models --model-control-mode=explicit --disable-auto-complete-config --exit-timeout-secs=30 --grpc-restricted-protocol=model-repository,shared-memory,trace,logging:admin-key=${CMB_ADMIN_KEY:?set CMB_ADMIN_KEY} --http-restricted-api=model-repository,shared-memory,trace,logging:admin-key=${CMB_ADMIN_KEY} \"$@\"", "tritonserver"]
