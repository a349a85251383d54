# The API, housekeeping and every command that needs no model library: no torch in here.
#   docker build --file api.Dockerfile --tag inference-server-api:0.1.0 .
ARG PYTHON=3.11.16-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY constraints.txt ./
RUN python -m venv --without-pip /opt/inference-server \
 && python -m pip install --constraint constraints.txt setuptools
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY inference_server ./inference_server
COPY mim_extension ./mim_extension
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/inference-server install --constraint constraints.txt \
    '/wheels/inference_server-0.1.0-py3-none-any.whl[api,flower,postgresql,s3,traces]'

FROM python:${PYTHON}
RUN groupadd --gid 10001 inference-server \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin inference-server \
 && install --directory --owner=10001 --group=10001 --mode=0700 /data /certificate
COPY --from=build /opt/inference-server /opt/inference-server
# The root file system may be read-only: /data is a volume, /tmp is in memory.
ENV PATH=/opt/inference-server/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    INFERENCE_SERVER_DATA_DIR=/data \
    INFERENCE_SERVER_LOG_JSON=true
WORKDIR /data
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz/ready', timeout=8)"]
ENTRYPOINT ["inference-server"]
CMD ["api"]
