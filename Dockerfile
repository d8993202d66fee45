# docker build -t sekd .                                    for CPU
# docker build -t sekd:gpu --build-arg ENGINE=gpu .         for NVIDIA GPUs; run it with --gpus all
# docker run --rm -it --shm-size 8g -v "$PWD":/work sekd demo
FROM python:3.11-slim-bookworm
ARG ENGINE=cpu
# make and git for the project's commands; numactl and tcmalloc for vLLM on CPU; gcc for what torch compiles at run time.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make git gcc g++ libnuma1 libtcmalloc-minimal4 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/sekd
COPY . .
RUN pip install --no-cache-dir "uv>=0.13.8" \
    && if [ "$ENGINE" = cpu ]; then uv pip install --system --no-cache --torch-backend cpu ".[cpu]"; \
       else uv pip install --system --no-cache ".[$ENGINE]"; fi \
    && useradd --create-home --uid 1000 sekd
USER 1000
WORKDIR /work
ENTRYPOINT ["sekd"]
CMD ["doctor"]
