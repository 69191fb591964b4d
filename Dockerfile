# sparring in a container. The plain build runs on CPUs and, with the NVIDIA container toolkit, on
# GPUs: torch's usual wheel brings CUDA, about 5 GB. With the address of torch's CPU wheels, which
# pytorch.org/get-started names, the image is a fifth of that.
#
#   docker build -t sparring .
#   docker build -t sparring:cpu --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm -v "$PWD:/work" sparring:cpu demo --quick
#   docker run --rm --gpus all -v "$PWD:/work" sparring train digits objective=detail
#
# Runs land in the folder that is mounted as /work; with --user "$(id -u):$(id -g)" they are yours.

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=""
ARG EXTRAS="text,denoise"
COPY constraints.txt /
# hadolint ignore=DL3013 # the constraints pin it
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    "$(grep '^torch==' /constraints.txt)"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir -c /constraints.txt "$(echo /wheels/*.whl)[$EXTRAS]" \
    && useradd --create-home --uid 1000 user && chmod 777 /home/user
ENV HOME=/home/user
USER 1000
WORKDIR /work
ENTRYPOINT ["sparring"]
CMD ["--help"]
