"""What a user types first to leave one machine: right, or one line before anything is made."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from pipelines import encode
from pipelines.jobs import beam_jobs, runner_checks
from pipelines.jobs.worker_versions import AlikeWork
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import encode_args, encoding

DATAFLOW = ("--runner", "DataflowRunner", "--project", "my-project")
WHOLE = ("--region", "r", "--temp_location", "gs://b/t", "--sdk_container_image", "i")
NO_JAVA = ("--job_server_java_launcher", "no-such-java")


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """An address where nobody listens, and nobody else can begin to while this lasts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def refused(inputs: Path, tmp_path: Path, fails: Callable[..., str]) -> Callable[..., str]:
    """Runs a command that must be refused in a minute, and leave nothing; returns the line."""

    def run(*more: str) -> str:
        start = time.monotonic()
        line = fails(encode.main, encode_args(inputs, tmp_path / "s.zarr", *more))
        assert time.monotonic() - start < 60
        assert list(tmp_path.iterdir()) == []
        return line

    return run


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("DirectRuner",), "--runner DirectRuner is no runner; choose one of DirectRunner, Dask"),
        (("no.such.Runner",), "Beam cannot run with these options: No module named"),
        (("os.path",), "Beam cannot run with these options: 'module' object is not"),
        (("dask", "--dask_npartitions", "2"), "--dask_npartitions and --dask_partition_size"),
        (("direct", "--dask_client_name", "x"), "--dask_client_name is a flag of --runner Dask"),
        (("direct", "--no_wait_until_finish"), "let it run, or end it and run the same"),
        (("portable",), "--runner PortableRunner needs --job_endpoint HOST:PORT, got none"),
        (("prism",), "--runner PrismRunner needs --prism_location FILE"),
        (("prism", "--prism_location", "/no/such"), "got /no/such, where no file lies"),
        (("FlinkRunner",), "--runner FlinkRunner needs --flink_job_server_jar FILE"),
        (("spark", "--spark_job_server_jar", "x.jar"), "got x.jar, where no file lies"),
        (("spark", "--spark_job_server_jar", __file__, *NO_JAVA), "there is no no-such-java"),
        (DATAFLOW[1:], "needs --region NAME, --temp_location gs://BUCKET/FOLDER, --sdk_container"),
        ((*DATAFLOW[1:], *WHOLE), "cannot be reached by Dataflow's workers; copy it to a bucket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_runner_that_cannot_run_is_refused_first(
    refused: Callable[..., str], more: tuple[str, ...], message: str
) -> None:
    assert message in refused("--runner", *more)


@pytest.mark.skipif(
    importlib.util.find_spec("google.cloud") is not None, reason="Beam's part for it is installed"
)
def test_dataflow_names_its_extra(inputs: Path, fails: Callable[..., str]) -> None:
    args = encode_args(inputs, Path("unused"), *DATAFLOW, *WHOLE)
    args[args.index("--data_root") + 1] = "gs://b/data"
    args[args.index("--store") + 1] = "gs://b/s.zarr"
    assert "pip install 'latent-store[dataflow]'" in fails(encode.main, args)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("dask", "--dask_client_address"), "no scheduler of Dask answers at"),
        (("portable", "--job_endpoint"), "--job_endpoint {} does not answer within 1 seconds"),
        (
            (
                *("portable", "--job_endpoint", "embed", "--environment_type", "EXTERNAL"),
                "--environment_config",
            ),
            "--environment_config {} does not answer within 1 seconds; start the pool",
        ),
    ],
    ids=["dask", "job service", "worker pool"],
)
def test_an_endpoint_that_does_not_answer_is_named(
    refused: Callable[..., str],
    more: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 1)
    with closed_port() as endpoint:
        assert message.format(endpoint) in refused("--runner", *more, endpoint)


def test_a_portable_job_service_makes_the_same_store(inputs: Path, tmp_path: Path) -> None:
    calm, url = tmp_path / "calm.zarr", tmp_path / "s.zarr"
    encoding(inputs)(calm)
    flags = ("--runner", "portable", "--job_endpoint", "embed", "--environment_type", "LOOPBACK")
    encoding(inputs, *flags)(url)
    assert contents(url) == contents(calm)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Beam's pool of workers, another process as in another environment; its address."""
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 60)
    with closed_port() as address:
        port = address.rpartition(":")[2]
    words = ("-m", "apache_beam.runners.worker.worker_pool_main", "--service_port", port)
    # It starts workers with the `python` that it finds.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen([sys.executable, *words], env={**os.environ, "PATH": path})
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=200)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_a_pool_of_workers_makes_the_same_store_where_versions_are_alike(
    inputs: Path,
    tmp_path: Path,
    pool: str,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[..., str],
) -> None:
    flags = ("--runner", "portable", "--job_endpoint", "embed", "--environment_type", "EXTERNAL")
    flags = (*flags, "--environment_config", pool)
    other = functools.partial(AlikeWork, wanted={"Python": "2.7"})
    url = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(beam_jobs, "AlikeWork", other)
        line = fails(encode.main, encode_args(inputs, url, *flags), 1)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"has Python {python}, this process 2.7: let both have the same" in line
    encoding(inputs, *flags)(url)
    encoding(inputs)(tmp_path / "calm.zarr")
    assert contents(url) == contents(tmp_path / "calm.zarr")


def test_a_job_that_its_runner_lost_is_one_line(
    inputs: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    flags = ("--runner", "portable", "--job_endpoint", "embed", "--environment_type", "PROCESS")
    command = ("--environment_config", json.dumps({"command": "/bin/false"}))
    line = fails(encode.main, encode_args(inputs, tmp_path / "s.zarr", *flags, *command), 1)
    assert "PortableRunner" in line
    assert line.endswith("run the same command again to go on")
