"""What a runner needs, asked before a job writes anything: one line says what is missing.

Beam asks most of it after a pipeline was made, with retries of minutes and tracebacks of pages.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.transforms.environments import (
    DockerEnvironment,
    Environment,
    ExternalEnvironment,
    ProcessEnvironment,
)

from latent_store.console import MOST_THREADS, Number, told_late
from latent_store.errors import LatentStoreError
from latent_store.storage.addresses import hush_google
from latent_store.storage.object_stores import in_time, open_location
from pipelines.jobs.beam_options import runner_name
from pipelines.jobs.portable_pipelines import EMBEDDED, is_here, pool_near, require_worker

CONNECT_SECONDS = 5
"""How long an endpoint may take to answer."""
START_SECONDS = 60
"""How long a worker may take to begin, on a busy machine."""
DOCKER_SECONDS = 600
"""How long one may that is a container, whose image is pulled first."""
ACCOUNT_SECONDS = 8
"""How long Google's library may look for credentials."""
_LATE_SECONDS = 30
"""After which a wait for a container is told."""
_ADDRESS = re.compile(
    r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}"
    r"|(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|passthrough):\S+"
)
"""What has a port, or a scheme of gRPC's."""
_FETCHED = {
    "PrismRunner": "prism_location",
    "FlinkRunner": "flink_job_server_jar",
    "SparkRunner": "spark_job_server_jar",
}
"""What Beam downloads for a runner unless a flag says where it lies."""
_UBER_JAR = {
    "FlinkRunner": ("flink_submit_uber_jar", "flink_master"),
    "SparkRunner": ("spark_submit_uber_jar", "spark_rest_url"),
}
"""By runner the flag that sends its jar to a cluster, instead of starting it, and the cluster's."""


def require_runnable(options: PipelineOptions, places: Mapping[str, str]) -> None:
    """Refuses what a runner would refuse only after the plan was written, or would wait for.

    Args:
        options: Of the job; the runner is set.
        places: Flag -> folder or URL that workers read or write.

    Raises:
        LatentStoreError: The rule, what was given, and what to do.
    """
    if options.view_as(StandardOptions).no_wait_until_finish:
        raise LatentStoreError(
            "--no_wait_until_finish cannot be: this process holds the right to write while workers "
            "do; let it run, or end it and run the same command again"
        )
    direct = options.view_as(DirectOptions)
    for name, most in (("direct_num_workers", MOST_THREADS), ("direct_runner_bundle_repeat", None)):
        if refusal := Number(int, most=most).refusal(getattr(direct, name)):
            raise LatentStoreError(f"--{name} {refusal}")
    _CHECKS.get(runner_name(options), lambda *_: None)(options, places)
    _require_pipeline(options)
    if runner_name(options) in ("PortableRunner", *_FETCHED):
        _require_worker(options)


def _require_pipeline(options: PipelineOptions) -> None:
    """Makes a pipeline, which finds the runner and the pickle library and runs Beam's validators.

    Raises:
        LatentStoreError: In Beam's words.
    """
    with _in_words_of_beam():
        pipeline = beam.Pipeline(options=options)
        portable = options.view_as(PortableOptions)
        if portable.environment_type:
            Environment.from_options(portable)
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)


@contextlib.contextmanager
def _in_words_of_beam() -> Iterator[None]:
    try:
        yield
    except (ImportError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise LatentStoreError(
            f"Beam cannot run with these options: {error}; see --help for runners that can"
        ) from error


def _require_portable(options: PipelineOptions, _: Mapping[str, str]) -> None:
    name, portable = runner_name(options), options.view_as(PortableOptions)
    endpoint = portable.job_endpoint
    if endpoint is None and name == "PortableRunner":
        raise LatentStoreError("--runner PortableRunner needs --job_endpoint HOST:PORT, got none")
    if endpoint is None:
        _require_job_server(name, options)
    elif endpoint != EMBEDDED:
        _require_answer("--job_endpoint", endpoint, "start the job service there")
        _require_job_service(endpoint)
    if portable.environment_type or endpoint is not None:
        with _in_words_of_beam():
            environment = Environment.from_options(portable)
        own = endpoint == EMBEDDED or (endpoint is None and name == "PrismRunner")
        _require_environment(environment, portable, own=own)
        pool = pool_near(options)
        if pool is not None:
            start = "python -m apache_beam.runners.worker.worker_pool_main --service_port PORT"
            _require_answer("--environment_config", pool, f"start the pool with {start}")


def _require_environment(environment: Environment, portable: PortableOptions, *, own: bool) -> None:
    """Refuses workers that cannot be; what only this machine knows where it starts them, `own`."""
    other = "give --environment_type LOOPBACK for workers of this machine"
    if isinstance(environment, ExternalEnvironment):
        _require_address("--environment_type EXTERNAL needs --environment_config", environment.url)
    elif isinstance(environment, DockerEnvironment) and own and not _docker_runs():
        given = portable.environment_type or "left out, which means DOCKER"
        raise LatentStoreError(
            f"--environment_type {given}: docker does not run here, as docker info says; start "
            f"it, or {other}"
        )
    elif isinstance(environment, ProcessEnvironment) and portable.job_endpoint == EMBEDDED:
        raise LatentStoreError(f"--job_endpoint embed has no --environment_type PROCESS; {other}")
    elif isinstance(environment, ProcessEnvironment) and own:
        command = environment.command
        if not command or shutil.which(command) is None:
            raise LatentStoreError(
                f"--environment_type PROCESS needs a command that runs here, got {command}; mend "
                f"--environment_config, or {other}"
            )


def _may_lack_docker(options: PipelineOptions) -> bool:
    """Tells whether workers are containers of a job service at an address of this machine, where
    Docker does not run: its workers may yet be elsewhere."""
    portable = options.view_as(PortableOptions)
    if not is_here(portable.job_endpoint or "") or _docker_runs():
        return False
    return isinstance(Environment.from_options(portable), DockerEnvironment)


def _docker_runs() -> bool:
    try:
        ask = ["docker", "info"]
        return not subprocess.run(ask, capture_output=True, timeout=CONNECT_SECONDS).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _require_job_server(name: str, options: PipelineOptions) -> None:
    given = options.get_all_options()
    flag = _FETCHED[name]
    path = given[flag]
    if path is None or not ("://" in path or Path(path).is_file()):
        found = f"{path}, where no file lies" if path else "none"
        raise LatentStoreError(
            f"--runner {name} needs --{flag} FILE, which apache.org has, or --job_endpoint "
            f"HOST:PORT of a running service; got {found}"
        )
    if name not in _UBER_JAR:
        return
    if "://" not in path and not zipfile.is_zipfile(path):
        raise LatentStoreError(
            f"--{flag} {path} is no jar; give the job server's, which apache.org has"
        )
    cluster = _cluster_of(name, options)
    java = given["job_server_java_launcher"]
    if cluster:
        _require_web_server(f"--{_UBER_JAR[name][1]}", cluster)
    elif shutil.which(java) is None:
        raise LatentStoreError(
            f"--runner {name} starts its job service with Java, there is no {java}; install it, "
            "or give --job_endpoint HOST:PORT of a running service"
        )


def _cluster_of(name: str, options: PipelineOptions) -> str:
    """Returns the address of the cluster that is sent a jar; nothing where none is."""
    given = options.get_all_options()
    uber, address = _UBER_JAR.get(name, ("", ""))
    cluster = str(given.get(address) or "none") if given.get(uber) else ""
    # Names in brackets are of what Beam starts.
    return "" if cluster.startswith("[") else cluster


def _require_web_server(flag: str, address: str) -> None:
    url = address if "://" in address else f"http://{address}"
    try:
        urllib.request.urlopen(url, timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # It answers.
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise LatentStoreError(
            f"{flag} {address} does not answer within {CONNECT_SECONDS} seconds ({error}); start "
            "the cluster there, or give another address"
        ) from error


def _require_worker(options: PipelineOptions) -> None:
    """Has one element run, where workers are started by this machine or near it.

    On a cluster that would be a job of its own, which may have to wait for its turn.
    """
    name, portable = runner_name(options), options.view_as(PortableOptions)
    given, endpoint = options.get_all_options(), portable.job_endpoint
    pool = pool_near(options)
    if endpoint is None and not _cluster_of(name, options):
        flag = f"--{_FETCHED[name]}"
        what, remedy = f"{flag} {given[flag[2:]]}", f"give a {flag} that runs on this machine"
    elif pool is not None:
        what = f"workers of the pool at {pool}"
        remedy = "its own output says why; let its `python` be one with 'latent-store[beam]'"
    elif endpoint == EMBEDDED or _may_lack_docker(options):
        what, remedy = (
            f"--environment_type {portable.environment_type or 'DOCKER'}",
            "mend it or --environment_config, or give --environment_type LOOPBACK",
        )
    else:
        return
    chosen = portable.environment_type or endpoint is not None
    docker = chosen and isinstance(Environment.from_options(portable), DockerEnvironment)
    wait = f"{name} waits for a container to begin, {DOCKER_SECONDS // 60} minutes at most"
    told = told_late(wait, _LATE_SECONDS) if docker else contextlib.nullcontext()
    try:
        with told:
            require_worker(options, DOCKER_SECONDS if docker else START_SECONDS)
    except LatentStoreError as error:
        raise LatentStoreError(f"{name} cannot use {what}: {error}; {remedy}") from error


def _require_address(rule: str, address: str | None) -> None:
    if not _ADDRESS.fullmatch(address or ""):
        raise LatentStoreError(f"{rule} HOST:PORT, got {address or 'none'}; name the port too")


def _require_answer(flag: str, endpoint: str, remedy: str) -> None:
    _require_address(flag, endpoint)
    with grpc.insecure_channel(endpoint) as channel:
        # Whatever it says of its health, it speaks. A future that waits for the channel would leave
        # a thread behind, which may print that the channel was closed.
        ask = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            ask(b"", wait_for_ready=True, timeout=CONNECT_SECONDS)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                return
            raise LatentStoreError(
                f"{flag} {endpoint} does not answer within {CONNECT_SECONDS} seconds; {remedy}, or "
                "give another address"
            ) from None


def _require_job_service(endpoint: str) -> None:
    """Refuses an address where another service of gRPC answers, such as a pool of workers."""
    with grpc.insecure_channel(endpoint) as channel:
        service = beam_job_api_pb2_grpc.JobServiceStub(channel)
        # Not every job service has the first.
        for ask, request in (
            (service.GetJobs, beam_job_api_pb2.GetJobsRequest()),
            (service.GetState, beam_job_api_pb2.GetJobStateRequest(job_id="none")),
        ):
            try:
                ask(request, timeout=CONNECT_SECONDS)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                    continue
            return
    raise LatentStoreError(
        f"--job_endpoint {endpoint} is no job service of Beam's, though it speaks gRPC; give the "
        "service's address, and a pool of workers by --environment_config"
    )


def _require_dataflow(options: PipelineOptions, places: Mapping[str, str]) -> None:
    cloud, worker = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    needed = {
        "--project ID": cloud.project,
        "--region NAME": cloud.region or os.environ.get("CLOUDSDK_COMPUTE_REGION"),
        "--temp_location gs://BUCKET/FOLDER": cloud.temp_location,
        "--sdk_container_image IMAGE": worker.sdk_container_image,
    }
    missing = [flag for flag, value in needed.items() if not value]
    if missing:
        raise LatentStoreError(
            f"--runner DataflowRunner needs {', '.join(missing)}; IMAGE is what "
            "docker/beam-worker.Dockerfile makes"
        )
    folders = {"--temp_location": str(cloud.temp_location)}
    if cloud.staging_location not in (None, cloud.temp_location):
        folders["--staging_location"] = str(cloud.staging_location)
    for flag, place in {**places, **folders}.items():
        if not place.startswith("gs://"):
            raise LatentStoreError(
                f"{flag} {place} cannot be reached by Dataflow's workers; copy it to a bucket and "
                f"give {flag} gs://BUCKET/FOLDER"
            )
    for flag, place in folders.items():
        if not place.removeprefix("gs://").partition("/")[1]:
            # Beam would make a bucket of its own in the project, and use that.
            raise LatentStoreError(
                f"{flag} must be a folder of a bucket, got {place}; give {place}/FOLDER"
            )
    try:
        import google.auth
        import google.cloud.dataflow
    except ImportError as error:
        raise LatentStoreError(
            f"--runner DataflowRunner needs more of Beam ({error}): pip install "
            "'latent-store[dataflow]'"
        ) from error
    hush_google()
    try:
        # Where there are none, machines are asked that only Google's network has.
        in_time(google.auth.default, ACCOUNT_SECONDS)
    except (google.auth.exceptions.DefaultCredentialsError, TimeoutError) as error:
        raise LatentStoreError(
            f"--runner DataflowRunner finds no credentials ({str(error) or 'in time'}); run gcloud "
            "auth application-default login, or let GOOGLE_APPLICATION_CREDENTIALS name a key's "
            "file"
        ) from error
    for flag, place in folders.items():
        _require_writable(flag, place)


def _require_writable(flag: str, url: str) -> None:
    """Refuses a folder of an object store in which nothing can be written.

    Beam tries for ten minutes to.
    """
    location, probe = open_location(url), f"probe-{uuid4().hex}"
    try:
        location.write(probe, b"")
    except PermissionError as error:
        raise LatentStoreError(f"{flag} {error}, or give another") from error
    with contextlib.suppress(OSError):  # Who may write may not remove, perhaps; Beam does not.
        location.delete(probe)


def _require_dask(options: PipelineOptions, places: Mapping[str, str]) -> None:
    # It loads Dask.
    from pipelines.jobs.dask_jobs import require_cluster

    # Of what is not made yet, the folder that it will be made in.
    local = [Path(place).absolute() for place in places.values() if "://" not in place]
    there = [next(p for p in (path, *path.parents) if p.exists()) for path in local]
    require_cluster(options, [str(path) for path in there], timeout=CONNECT_SECONDS)


_CHECKS: dict[str, Callable[[PipelineOptions, Mapping[str, str]], None]] = {
    "DaskRunner": _require_dask,
    "DataflowRunner": _require_dataflow,
    **dict.fromkeys(("PortableRunner", *_FETCHED), _require_portable),
}
