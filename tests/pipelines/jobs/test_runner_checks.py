"""What a user types first to leave one machine: right, or one line before anything is made."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import psutil
import pytest

from latent_store.errors import JobFailedError
from pipelines import encode
from pipelines.jobs import portable_pipelines, runner_checks
from pipelines.jobs.beam_jobs import beam_options, run_over_shards
from pipelines.jobs.worker_versions import AlikeWork
from tests.pipelines.as_documented import runner_flags
from tests.pipelines.kills import contents
from tests.pipelines.tiny_jobs import encode_args, encoding

# Beam leaves the pipes of what it starts to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

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
def refused(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused in a minute by one line, and leave nothing; returns
    the line."""

    def run(*more: str) -> str:
        start = time.monotonic()
        capfd.readouterr()
        assert encode.main(encode_args(inputs, tmp_path / "store/s.zarr", *more)) == 2
        assert time.monotonic() - start < 60
        said, line = capfd.readouterr()
        assert (said, line.count("\n")) == ("", 1), line
        assert not (tmp_path / "store").exists()
        return line

    return run


EMBED = ("portable", "--job_endpoint", "embed")
ENVIRONMENT = (*EMBED, "--environment_type")
EXTERNAL = (*ENVIRONMENT, "EXTERNAL", "--environment_config")
PROCESS = ("PROCESS", "--environment_config", '{"command": "/no/such"}')


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
        (("flink", "--flink_job_server_jar", __file__), "test_runner_checks.py is no jar; give"),
        (EXTERNAL[:-1], "Beam cannot run with these options: "),
        ((*EXTERNAL, "127.0.0.1"), "HOST:PORT, got 127.0.0.1; name the port too"),
        ((*EXTERNAL, "{"), "needs --environment_config HOST:PORT, got {; name the port too"),
        ((*EXTERNAL, "{}"), "options: External environment endpoint must be set"),
        ((*EMBED[:2], "localhost"), "--job_endpoint HOST:PORT, got localhost; name the port too"),
        ((*ENVIRONMENT, *PROCESS), "--job_endpoint embed has no --environment_type PROCESS"),
        ((*ENVIRONMENT, "NONE"), "Unknown environment type: NONE"),
        (("prism", "--prism_location", __file__, "--environment_type", *PROCESS), "got /no/such"),
        (("prism", "--prism_location", "/bin/true"), "--prism_location /bin/true: Service failed"),
        (("dask", "--dask_scheduler_file", "/no/such"), "--dask_scheduler_file /no/such is no"),
        (("dask", "--dask_scheduler_file", __file__), "is no file that a scheduler of Dask wrote"),
        (DATAFLOW[1:], "needs --region NAME, --temp_location gs://BUCKET/FOLDER, --sdk_container"),
        ((*DATAFLOW[1:], *WHOLE), "cannot be reached by Dataflow's workers; copy it to a bucket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_runner_that_cannot_run_is_refused_first(
    refused: Callable[..., str], more: tuple[str, ...], message: str
) -> None:
    assert message in refused("--runner", *more)


@pytest.fixture
def no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker is installed here, and does not run."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2\nexit 1\n")
    docker.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("no_docker")
def test_docker_that_does_not_run_is_refused_first(refused: Callable[..., str]) -> None:
    assert "left out, which means DOCKER: docker does not run" in refused("--runner", *EMBED)
    assert "type DOCKER: docker does not run" in refused("--runner", *ENVIRONMENT, "DOCKER")


# Beam closes a channel while a thread of gRPC's own waits for it, which may stumble over that.
@pytest.mark.filterwarnings(
    "ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning"
)
def test_a_job_server_that_does_not_start_is_refused_first(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    jar = tmp_path / "x.jar"
    with zipfile.ZipFile(jar, "w") as file:
        file.writestr("x", "")
    assert "no no-such-java" in refused(
        "--runner", "spark", "--spark_job_server_jar", str(jar), *NO_JAVA
    )
    java = ("--job_server_java_launcher", "false")
    line = refused("--runner", "flink", "--flink_job_server_jar", str(jar), *java)
    assert "x.jar: Service failed to start up with error 1; give" in line


def test_a_cluster_that_is_sent_a_jar_is_asked_first(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 1)
    jar = tmp_path / "x.jar"
    for name, uber, address in (
        ("flink", "--flink_submit_uber_jar", "--flink_master"),
        ("spark", "--spark_submit_uber_jar", "--spark_rest_url"),
    ):
        flags = ("--runner", name, uber, f"--{name}_job_server_jar", str(jar), address)
        jar.write_bytes(b"")
        assert f"{jar} is no jar" in refused(*flags, "http://127.0.0.1:9")
        with zipfile.ZipFile(jar, "w") as file:
            file.writestr("x", "")
        with closed_port() as closed:
            assert f"{address} {closed} does not answer" in refused(*flags, closed)


def test_a_service_that_starts_and_never_serves_is_refused(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_checks, "START_SECONDS", 3)
    prism, pid = tmp_path / "prism", tmp_path / "pid"
    prism.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 600\n")
    prism.chmod(0o700)
    # Else Beam has one for the whole process, which another test may have started.
    own = ("--experiments", "disable_prism_server_singleton")
    line = refused("--runner", "prism", "--prism_location", str(prism), *own)
    assert "prism: none began within 3 seconds; give a --prism_location" in line
    assert not psutil.pid_exists(int(pid.read_text()))


def test_dataflow_names_its_extra(
    inputs: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.dataflow", None)
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
            EXTERNAL,
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


@pytest.mark.parametrize(
    "more",
    [("dask", "--dask_client_address"), ("portable", "--job_endpoint"), EXTERNAL],
    ids=["dask", "job service", "worker pool"],
)
def test_what_accepts_and_says_nothing_is_no_service(
    refused: Callable[..., str], more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_checks, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"127.0.0.1:{mute.getsockname()[1]}"
        line = refused("--runner", *more, endpoint)
    assert re.search(rf"answer(s at {endpoint}|) within 1 seconds", line)


def test_another_service_of_grpcs_is_no_job_service(refused: Callable[..., str]) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        line = refused("--runner", "portable", "--job_endpoint", endpoint)
        assert f"--job_endpoint {endpoint} is no job service of Beam's" in line
        assert "UNIMPLEMENTED: Method not found!; its own" in refused(
            "--runner", *EXTERNAL, endpoint
        )
    finally:
        server.stop(0).wait()


@pytest.mark.usefixtures("no_docker")
def test_containers_of_a_service_here_are_tried_where_docker_does_not_run(
    refused: Callable[..., str],
) -> None:
    with closed_port() as address:
        port = address.rpartition(":")[2]
    words = ("-m", "apache_beam.runners.portability.local_job_service_main", "--port", port)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *words], **quiet)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=100)
        line = refused("--runner", "portable", "--job_endpoint", address)
        assert "cannot use --environment_type DOCKER" in line
    finally:
        process.terminate()
        process.wait()


def test_grpcs_own_addresses_are_taken(tmp_path: Path) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port, file = server.add_insecure_port("127.0.0.1:0"), f"unix:{tmp_path / 's'}"
    server.add_insecure_port(file)
    server.start()
    try:
        for address in (file, f"ipv4:127.0.0.1:{port}", f"dns:///127.0.0.1:{port}"):
            runner_checks._require_answer("--job_endpoint", address, "start it")
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize(
    "flags",
    [
        runner_flags("a portable job service", HOST="embed"),
        runner_flags("processes of this machine", **{"4": "2"}),
    ],
    ids=["portable", "processes"],
)
def test_other_runners_make_the_same_store(
    inputs: Path, tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_checks, "START_SECONDS", 60)
    calm, url = tmp_path / "calm.zarr", tmp_path / "s.zarr"
    encoding(inputs)(calm)
    encoding(inputs, *flags)(url)
    assert contents(url) == contents(calm)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Beam's pool of workers, another process as in another environment; its address."""
    for limit in ("CONNECT_SECONDS", "START_SECONDS"):
        monkeypatch.setattr(runner_checks, limit, 60)
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
    refused: Callable[..., str],
) -> None:
    flags = runner_flags("workers of another environment", HOST=pool)
    other = functools.partial(AlikeWork, wanted={"Python": "2.7"})
    url = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(portable_pipelines, "AlikeWork", other)
        line = refused(*flags)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"has Python {python}, this process 2.7: let both have the same" in line
    encoding(inputs, *flags)(url)
    encoding(inputs)(tmp_path / "calm.zarr")
    assert contents(url) == contents(tmp_path / "calm.zarr")


def end_worker(shard: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_of_a_pool_that_is_killed_ends_the_job_in_one_line(
    pool: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = beam_options("x", ("--runner", *EXTERNAL, pool))
    monkeypatch.setattr(portable_pipelines, "_CLOSE_SECONDS", 2)
    capfd.readouterr()
    with pytest.raises(
        JobFailedError, match=r"^a worker ended before its shard was done, .* go on"
    ):
        run_over_shards("End", [0], end_worker, options)
    assert capfd.readouterr().err == ""
