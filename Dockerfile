# Three images: `queue` (the queue server), `service` (API, janitor, webhook sender, without
# PyTorch) and `worker` (loads the model).
#
#   docker build --target service -t praxino-service .
#   docker build --target worker  -t praxino-worker .
#
# Arguments of both:
#   PYTHON_IMAGE         base image; a release pins it by digest, python:3.11-slim@sha256:…
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL   as pip reads them. Never with a password in it: arguments
#                        stay in the image's history. For that, pass pip's own configuration:
#                        --secret id=pip,src=$HOME/.config/pip/pip.conf
# Wheels in the folder `wheels/` are preferred to an index's of the same or a lower version.
#
# Arguments of the worker:
#   TORCH_VERSION        exactly this PyTorch, such as 2.13.0+cpu for an image without CUDA; an
#                        index or `wheels/` must have it. Empty: what the index offers, with CUDA.
#   EXTRAS               of pyproject.toml, such as open,gguf, or none. Empty: open, which open
#                        weights need, but none where TORCH_VERSION says that there is no CUDA.

ARG PYTHON_IMAGE=python:3.11-slim
ARG QUEUE_IMAGE=redis:7

FROM ${QUEUE_IMAGE} AS queue
RUN install -d -o 10001 -g 10001 -m 0750 /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 6379
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=10 \
    CMD ["/bin/sh", "-c", "REDISCLI_AUTH=\"$QUEUE_PASSWORD\" redis-cli ping | grep -qx PONG"]
# The password, of letters and digits, reaches the server on standard input: arguments can be read
# by every process. `exec` makes the server the one that is told to stop.
CMD ["/bin/sh", "-c", "exec redis-server --protected-mode no --appendonly yes --appendfsync everysec --save '' --maxmemory-policy noeviction --dir /data - <<END\nrequirepass \"$QUEUE_PASSWORD\"\nEND"]

# Only what `wheels/` holds, if it is there; the licence is named because COPY must find something.
FROM scratch AS wheels
COPY LICENSE wheel[s] /wheels/

# What has to be installed, in lists: all of it, the same without what only a model needs, and each
# extra. A change of anything else in pyproject.toml leaves them alone, and the layers made of them.
FROM ${PYTHON_IMAGE} AS needs
COPY pyproject.toml /
RUN mkdir /extras && python -c "import tomllib; \
project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; \
needs = project['dependencies'] + project['optional-dependencies']['traces']; \
heavy = ('torch', 'einops', 'safetensors', 'tokenizers'); \
print(*needs, sep='\n', file=open('/all.txt', 'w')); \
light = [need for need in needs if not need.startswith(heavy)]; \
print(*light, sep='\n', file=open('/light.txt', 'w')); \
[print(*extra, sep='\n', file=open(f'/extras/{name}.txt', 'w')) \
 for name, extra in project['optional-dependencies'].items() if name != 'dev']"

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    HOME=/tmp \
    PRAXINO_DATA_DIR=/data
RUN groupadd --gid 10001 praxino \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin praxino \
    && install -d -o praxino -g praxino -m 0750 /data
WORKDIR /app
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    --mount=type=bind,from=needs,source=/light.txt,target=/light.txt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --find-links /wheels -r /light.txt

FROM base AS sources
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY service service
COPY worker worker
COPY models models
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip wheel --no-deps --wheel-dir /wheels/worker . \
    && rm -rf build ./*.egg-info \
    && find models -name '*.safetensors' -delete \
    && pip wheel --no-deps --wheel-dir /wheels/service .

FROM base AS service
RUN --mount=type=bind,from=sources,source=/wheels/service,target=/wheels \
    pip install --no-index --no-deps /wheels/*.whl
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["praxino", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH_VERSION
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    --mount=type=bind,from=needs,source=/all.txt,target=/all.txt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --find-links /wheels -r /all.txt ${TORCH_VERSION:+"torch==$TORCH_VERSION"}
ARG EXTRAS
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    --mount=type=bind,from=needs,source=/all.txt,target=/all.txt \
    --mount=type=bind,from=needs,source=/extras,target=/extras \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    case "${EXTRAS:-$TORCH_VERSION}" in none|*+cpu) exit 0;; esac; \
    set --; IFS=,; \
    for extra in ${EXTRAS:-open}; do set -- "$@" -r "/extras/$extra.txt"; done; \
    pip install --find-links /wheels -r /all.txt "$@"
RUN --mount=type=bind,from=sources,source=/wheels/worker,target=/wheels \
    pip install --no-index --no-deps /wheels/*.whl
USER 10001:10001
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=6 \
    CMD ["python", "-m", "worker.pulse", "worker", "--ready"]
CMD ["python", "-m", "worker"]
