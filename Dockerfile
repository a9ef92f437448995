# The server for GPU nodes, and for CPU nodes too: NVIDIA's Triton, whose own onnxruntime backend runs the networks, and this
# library without torch for the Python steps. NOT YET BUILT BY US: docs/explanation/serving.md lists what was checked outside a container and
# "Not yet run". Once the base has been fetched, pin it: --build-arg TRITON=nvcr.io/nvidia/tritonserver@sha256:...
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t cmb-models-server:0.2.0 .
ARG TRITON=nvcr.io/nvidia/tritonserver:26.09-py3

# Packages are installed into a separate folder, so that the system's Python is untouched and pip is not in the final image. numpy 1.26
# as in the bundled server's environment: Triton builds its Python backend with numpy<2 (its issue 8301 is open), and with numpy 2 the
# stub returns wrong values without an error. Each of these pins has a wheel for the base's Python 3.12.
FROM ${TRITON} AS packages
COPY serving/requirements.txt /tmp/requirements.txt
RUN python3 -m pip install --no-cache-dir --only-binary=:all: --target /opt/cmb/site --constraint /tmp/requirements.txt \
        numpy scipy nibabel pydantic pyyaml typer rich "tritonclient[grpc]"

FROM ${TRITON}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="cmb-models server" \
      org.opencontainers.image.description="Cerebral microbleed detector on Triton. Research software, not a medical device." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tritonserver:26.09-py3"

COPY --from=packages /opt/cmb/site /opt/cmb/site
COPY cmb_models /opt/cmb/app/cmb_models
COPY serving/model_repository /opt/cmb/app/serving/model_repository
COPY serving/backends /opt/cmb/app/serving/backends

# PYTHONPATH comes before the system's packages, in the server's Python steps too. HOME and the CUDA cache lie on the tmpfs: the
# root file system may be read-only. One thread for each step's small linear algebra. TF32, the default of the libraries for float32
# convolutions on newer GPUs, moves scores by more than a deployment's golden scan allows.
ENV PYTHONPATH=/opt/cmb/app:/opt/cmb/site \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    CUDA_CACHE_PATH=/tmp/cuda-cache \
    NVIDIA_TF32_OVERRIDE=0 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    CMB_ADDRESS=0.0.0.0
RUN ["python3", "-m", "cmb_models.serving.run.image_check"]

# Written by `cmb server export` or `cmb server deploy`, mounted read-only. With --read-only give it --tmpfs /tmp and --shm-size 4g:
# volumes pass between the steps through /dev/shm.
VOLUME /models
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=300s --start-interval=2s --retries=3 \
    CMD ["python3", "-m", "cmb_models.serving.run.entrypoint", "health"]

# Settings: CMB_* variables, all in cmb_models/serving/run/settings.py; arguments after the image's name are passed to tritonserver.
ENTRYPOINT ["python3", "-m", "cmb_models.serving.run.entrypoint"]
