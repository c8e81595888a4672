# Two images: `service` (API and janitor, without PyTorch) and `worker` (loads the model).
#
#   docker build --target service -t praxino-service .
#   docker build --target worker  -t praxino-worker .
#
# The worker gets PyTorch as the package index offers it, with CUDA. For a CPU-only image pass
# an index that has CPU wheels: --build-arg PIP_EXTRA_INDEX_URL=…

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PRAXINO_DATA_DIR=/data
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin praxino \
    && install -d -o praxino -g praxino -m 0750 /data
WORKDIR /app
COPY pyproject.toml ./
# Everything but what only a model needs; a change of sources leaves this layer alone.
RUN python -c "import tomllib; \
needs = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
heavy = ('torch', 'einops', 'safetensors', 'tokenizers'); \
print(*(need for need in needs if not need.startswith(heavy)), sep='\n')" > light.txt \
    && pip install -r light.txt

FROM base AS sources
COPY README.md LICENSE NOTICE ./
COPY service service
COPY worker worker
COPY models models
RUN pip wheel --no-deps --wheel-dir /wheels/worker . \
    && rm -rf build ./*.egg-info \
    && find models -name '*.safetensors' -delete \
    && pip wheel --no-deps --wheel-dir /wheels/service .

FROM base AS service
RUN --mount=type=bind,from=sources,source=/wheels/service,target=/wheels \
    pip install --no-deps /wheels/*.whl
USER praxino
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["praxino", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
ARG PIP_EXTRA_INDEX_URL=""
RUN python -c "import tomllib; \
print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > all.txt \
    && pip install -r all.txt
RUN --mount=type=bind,from=sources,source=/wheels/worker,target=/wheels \
    pip install --no-deps /wheels/*.whl
USER praxino
VOLUME /data
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
