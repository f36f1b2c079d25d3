# Trainer: every command that learns from a store or evaluates what was learned.
#   docker build -f docker/trainer.Dockerfile -t latent-store-trainer .
#   docker run --gpus all -v /data:/data latent-store-trainer train-from-store --store /data/cv.zarr ...
# Its CUDA is 13: GPUs need a driver of 580 or newer. For another CUDA, or none:
# --build-arg PIP_EXTRA_INDEX_URL=URL, where URL is the index of PyTorch's builds for it.
# Stores may lie at s3:// and gs://.
# Several GPUs:
#   docker run --gpus all --ipc host ... latent-store-trainer \
#       torchrun --standalone --nproc_per_node 4 -m training.train ...
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim
# Read by pip, where it is given; of two builds of one version the one that names what it is for wins.
ARG PIP_EXTRA_INDEX_URL
# torch.compile compiles what it makes. Debian's archive keeps no version but the newest to pin.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/latent-store
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY latent_store latent_store
COPY training training
COPY pipelines pipelines
RUN pip install --no-cache-dir -c constraints.txt '.[beam,xarray,s3,gcs]'
CMD ["train-from-store", "--help"]
