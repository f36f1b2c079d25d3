# Notebook: JupyterLab with the tours, and every process of the Dask cluster in compose.yaml.
#   docker build -f docker/notebook.Dockerfile -t latent-store-notebook .
#   docker run -p 127.0.0.1:8888:8888 -v /data:/data:ro -e LATENT_STORE=/data/cv.zarr latent-store-notebook
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim
# Here alone, so pinned here: the server that shows notebooks, and what draws Dask's dashboard.
ARG JUPYTERLAB_VERSION=4.6.6
ARG BOKEH_VERSION=3.9.2
WORKDIR /opt/latent-store
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY latent_store latent_store
COPY training training
COPY pipelines pipelines
RUN pip install --no-cache-dir -c constraints.txt '.[notebooks,s3,gcs]' \
    "jupyterlab==${JUPYTERLAB_VERSION}" "bokeh==${BOKEH_VERSION}"
# The tours are copied to where their reader may change and save them.
RUN useradd --uid 1000 --create-home reader && cp -r latent_store/notebooks /home/reader/notebooks \
    && chown -R reader /home/reader/notebooks
# By number: what refuses to run root looks no name up.
USER 1000
WORKDIR /home/reader/notebooks
CMD ["jupyter", "lab", "--ip", "0.0.0.0", "--no-browser"]
