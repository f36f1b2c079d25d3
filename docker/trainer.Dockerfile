# Trainer: every command that learns from a store or evaluates what was learned.
#   docker build -f docker/trainer.Dockerfile -t latent-store-trainer .
#   docker run --gpus all -v /data:/data latent-store-trainer train-from-store --store /data/cv.zarr ...
# Several GPUs: ... latent-store-trainer torchrun --standalone --nproc_per_node 4 -m training.train ...
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim
WORKDIR /opt/latent-store
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY latent_store latent_store
COPY training training
COPY pipelines pipelines
RUN pip install --no-cache-dir -c constraints.txt '.[train,xarray]'
CMD ["train-from-store", "--help"]
