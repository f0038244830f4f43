# The default target serves on a CPU: the base install and a filled registry, no torch.
#   docker build -t hubel .
# The target "torch" can train, import, and serve on a GPU:
#   docker build -t hubel:torch --target torch .

FROM python:3.11-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# ---- the project as a wheel
FROM base AS tools
RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.9
ENV UV_LINK_MODE=copy UV_NO_CACHE=1

FROM tools AS wheel
WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md hubel.py ./
COPY model model
COPY service service
COPY training training
RUN uv build --quiet --wheel --out-dir /wheels

# ---- everything, torch included
FROM tools AS torch-environment
COPY requirements.lock /
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    uv venv --quiet /opt/hubel \
 && uv pip install --quiet --python /opt/hubel --constraints /requirements.lock "hubel[torch,openvino,s3,timm] @ file://$(ls /wheels/*.whl)"

# ---- a registry with the default models
FROM torch-environment AS registry
RUN /opt/hubel/bin/hubel setup --registry /registry

# ---- what serves
FROM tools AS serve-environment
COPY requirements-serve.lock /
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    uv venv --quiet /opt/hubel \
 && uv pip sync --quiet --python /opt/hubel /requirements-serve.lock \
 && uv pip install --quiet --python /opt/hubel --no-deps /wheels/*.whl

FROM base AS runtime
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent hubel && install --directory --owner hubel /cache
ENV PATH=/opt/hubel/bin:$PATH HUBEL_HOST=0.0.0.0 HUBEL_REGISTRY=/registry HUBEL_CACHE=/cache
COPY --from=registry --chown=hubel /registry /registry
USER hubel
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --start-interval=1s \
  CMD ["python", "-c", "import os, ssl, urllib.request as r; e = os.environ.get; s = 'https' if e('HUBEL_TLS_CERT') else 'http'; r.urlopen(f\"{s}://127.0.0.1:{e('HUBEL_PORT', '8000')}/health\", timeout=2, context=ssl._create_unverified_context())"]
CMD ["hubel", "serve"]

FROM runtime AS torch
COPY --from=torch-environment /opt/hubel /opt/hubel

FROM runtime AS serve
COPY --from=serve-environment /opt/hubel /opt/hubel
