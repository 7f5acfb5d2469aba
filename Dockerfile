# vidsr in a container, with torch for the CPU or for CUDA:
#
#     docker build --target cpu -t vidsr:cpu .
#     docker build --target cuda -t vidsr:cuda .
#
# .ci/run checks this file with hadolint. It has not been built by us.

FROM python:3.11-slim-bookworm AS build
COPY . /source
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 HOME=/tmp
COPY constraints.txt /opt/vidsr/
RUN useradd --uid 1000 --no-create-home vidsr
WORKDIR /work
ENTRYPOINT ["vidsr"]
CMD ["--help"]

# The CUDA libraries come with torch from the package index; the driver comes from the host (--gpus all).
FROM base AS cuda
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir -c /opt/vidsr/constraints.txt /wheels/*.whl
USER 1000

# Last, so that it is what `docker build .` makes.
FROM base AS cpu
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir -c /opt/vidsr/constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch \
    && python -m pip install --no-cache-dir -c /opt/vidsr/constraints.txt /wheels/*.whl
USER 1000
