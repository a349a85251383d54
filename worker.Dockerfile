# The worker, with every library of models; the weights of the models that ship are in it, so it needs no network.
#   docker build --file worker.Dockerfile --tag inference-server-worker:0.1.0 .
#   docker build --file worker.Dockerfile --build-arg TORCH_INDEX=<PyTorch's index for cpu> --tag inference-server-worker:0.1.0 .
ARG PYTHON=3.11.16-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

FROM python:${PYTHON} AS build
# torch as it is published first has the libraries of CUDA, not the driver, and computes on processors too. PyTorch has
# an index of its own for each other kind (processors alone, which is far smaller; other versions of CUDA): name it here.
ARG TORCH_INDEX=
ARG EXTRAS=worker,openvino,postgresql,s3,traces
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY constraints.txt ./
# torch first and alone: it is most of the image, and stays as it is when the server's own code changes.
RUN python -m venv --without-pip /opt/inference-server \
 && python -m pip install --constraint constraints.txt setuptools \
 && python -m pip --python /opt/inference-server install --constraint constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY inference_server ./inference_server
COPY mim_extension ./mim_extension
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/inference-server install --constraint constraints.txt \
    "/wheels/inference_server-0.1.0-py3-none-any.whl[${EXTRAS}]"

FROM python:${PYTHON}
RUN groupadd --gid 10001 inference-server \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin inference-server \
 && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/inference-server /opt/inference-server
# The root file system may be read-only: /data is a volume, /tmp is in memory.
ENV PATH=/opt/inference-server/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=268435456:glibc.malloc.trim_threshold=1073741824 \
    INFERENCE_SERVER_DATA_DIR=/data \
    INFERENCE_SERVER_LOG_JSON=true
WORKDIR /data
USER 10001:10001
# Running cases are finished for INFERENCE_SERVER_DRAIN_S, then handed back: give it longer than that to stop.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=20s --start-period=180s --retries=3 \
    CMD ["inference-server", "doctor", "--only", "broker,database,blobs,disk"]
ENTRYPOINT ["inference-server"]
CMD ["worker"]
