# Worker: encodes shards on Dataflow, on a portable runner, in a Dask cluster; opens s3:// and gs://.
#   docker build -f docker/beam-worker.Dockerfile -t REPO/latent-store-worker .
# then pass --sdk_container_image REPO/latent-store-worker --sdk_location container.
# The launcher must have the same Beam version and the same Python minor version.
# With GPUs: `--device cuda`, and a driver that the CUDA of its torch needs. Without, a third of the
# size: --build-arg PIP_EXTRA_INDEX_URL=URL, where URL is the index of PyTorch's builds for CPUs.
# In a Dask cluster:
#   docker run --entrypoint dask REPO/latent-store-worker worker tcp://SCHEDULER:8786 --nthreads 1
# As a pool of workers:
#   docker run --network host --entrypoint python REPO/latent-store-worker \
#       -m apache_beam.runners.worker.worker_pool_main --service_port 50000
ARG PYTHON_VERSION=3.11
ARG BEAM_VERSION=2.77.0

FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION} AS beam_sdk

FROM python:${PYTHON_VERSION}-slim
ARG BEAM_VERSION
# Read by pip, where it is given; of two builds of one version the one that names what it is for wins.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /opt/latent-store
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY latent_store latent_store
COPY training training
COPY pipelines pipelines
# Installed here and not at start-up: a worker that fetches packages when it starts is slow, and
# fails where it has no network.
RUN pip install --no-cache-dir -c constraints.txt '.[dataflow,s3,xarray]' \
    "apache-beam==${BEAM_VERSION}"
COPY --from=beam_sdk /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]
