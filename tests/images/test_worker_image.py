"""The worker's image, built here without an engine: its processes make the store that others make.

    apt-get install buildah debootstrap
    .venv/bin/python -m pytest tests/images

as Linux's root, with 25 GB of disk. Beam's image, of which the worker's takes one program, cannot
be made of packages: here that program is missing, and with it the start on Dataflow. Neither Dask
nor a pool of workers calls it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latent_store.storage.location import Location
from tests import s3
from tests.images.builder import ROOT, Builder, lacking
from tests.pipelines.kills import contents
from tests.test_docker import CONSTRAINTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking()), reason=f"images are built with {lacking()}"),
]
IMAGE = "latent-store-worker"
BEAM = f"docker.io/apache/beam_python3.11_sdk:{CONSTRAINTS['apache-beam']}"
BUILD_SECONDS = 3000
"""The image's gigabytes may take on a slow disk, behind a slow network."""
SECONDS = 300
"""A command or a process may take to begin and to end, on a busy machine."""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    made = Builder(tmp_path_factory.mktemp("images"))
    # Pytest's own clock is of deadlocks; here nothing waits but for a process, which has a limit.
    faulthandler.cancel_dump_traceback_later()
    try:
        made.make_python()
        made.make_empty(BEAM, "opt/apache/beam")
        made.build(ROOT / "docker/beam-worker.Dockerfile", IMAGE, BUILD_SECONDS)
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def container(builder: Builder) -> str:
    return builder("from", "--pull-never", IMAGE)


@pytest.fixture
def calm(scene_root: Path, tmp_path: Path) -> Path:
    """The store that this process's own environment makes, of a copy of the pictures."""
    url = tmp_path / "calm.zarr"
    launch(encoding(scene_root, str(url)))
    return url


def encoding(scenes: Path | str, store: str, *more: str) -> list[str]:
    """Returns the arguments that encode six scenes in three shards."""
    given = ("--dataset", "cityscapes", "--split", "train", "--data_root", str(scenes))
    flags = ("--demo_codec", "--samples_per_shard", "2", "--threads", "1")
    return ["--store", store, *given, *flags, *more]


def launch(args: list[str]) -> None:
    """Runs the command in this environment, as a user does: its warnings are no errors."""
    command = [sys.executable, "-m", "pipelines.encode", *args]
    subprocess.run(command, cwd=ROOT, check=True, timeout=SECONDS)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def wait_for(address: str) -> None:
    """Waits until a server answers at an address.

    Raises:
        TimeoutError: It does not in time.
    """
    until = time.monotonic() + SECONDS
    host, _, port = address.partition(":")
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing answers at {address} after {SECONDS} seconds")


@contextlib.contextmanager
def dask_cluster(builder: Builder, container: str, shared: Path, **env: str) -> Iterator[str]:
    """Runs a scheduler and a worker of an image while a block runs; gives the cluster's address."""
    address = free_address()
    host, _, port = address.partition(":")
    scheduler = ("dask", "scheduler", "--host", host, "--port", port, "--dashboard-address", ":0")
    worker = ("dask", "worker", f"tcp://{address}", "--nthreads", "1", "--dashboard-address", ":0")
    with builder.running(container, *scheduler, shared=shared):
        wait_for(address)
        with builder.running(container, *worker, shared=shared, env=env):
            yield f"tcp://{address}"


def test_the_image_is_whole(builder: Builder, container: str, tmp_path: Path) -> None:
    settings = builder.settings(IMAGE)
    assert settings["config"]["Entrypoint"] == ["/opt/apache/beam/boot"]
    for command in (("pip", "check"), ("latent-store", "doctor"), ("dask", "--version")):
        with builder.running(container, *command, shared=tmp_path) as process:
            assert process.wait(SECONDS) == 0


def test_a_dask_cluster_of_the_image_makes_the_same_store(
    builder: Builder, container: str, scene_root: Path, tmp_path: Path, calm: Path
) -> None:
    url = tmp_path / "s.zarr"
    with dask_cluster(builder, container, scene_root.parent) as address:
        runner = ("--runner", "DaskRunner", "--dask_client_address", address)
        launch(encoding(scene_root, str(url), *runner))
    assert contents(url) == contents(calm)


def test_a_pool_of_the_image_makes_the_same_store(
    builder: Builder, container: str, scene_root: Path, tmp_path: Path, calm: Path
) -> None:
    url, address = tmp_path / "s.zarr", free_address()
    port = address.partition(":")[2]
    pool = ("python", "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port", port)
    with builder.running(container, *pool, shared=scene_root.parent):
        wait_for(address)
        runner = ("--runner", "PortableRunner", "--job_endpoint", "embed")
        where = ("--environment_type", "EXTERNAL", "--environment_config", address)
        launch(encoding(scene_root, str(url), *runner, *where))
    assert contents(url) == contents(calm)


def test_launcher_and_worker_of_the_image_write_to_a_bucket(
    builder: Builder,
    container: str,
    scene_root: Path,
    tmp_path: Path,
    calm: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with s3.serving(monkeypatch) as server:
        env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        scenes, there = f"{server.url}/scenes", f"{server.url}/s.zarr"
        Location(server.url).fs.put(f"{scene_root}/", f"{scenes}/", recursive=True)
        with dask_cluster(builder, container, tmp_path, **env) as address:
            runner = ("--runner", "DaskRunner", "--dask_client_address", address)
            command = ("encode-to-store", *encoding(scenes, there, *runner))
            with builder.running(container, *command, shared=tmp_path, env=env) as process:
                assert process.wait(SECONDS) == 0
        Location(server.url).fs.get(f"{there}/", f"{tmp_path}/copy/", recursive=True)
    assert contents(tmp_path / "copy") == contents(calm)
