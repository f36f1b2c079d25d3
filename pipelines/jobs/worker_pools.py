"""Pools of workers of this machine, watched while a job waits for one of them.

Beam asks a pool (`--environment_type EXTERNAL`) for a worker and waits without an end and a word:
why none starts is said where the pool runs alone.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    endpoints_pb2,
)

QUIET_SECONDS = 10.0
"""A job may run before its pool is asked."""
START_SECONDS = 20.0
"""A worker may take to start, on a busy machine."""


@contextlib.contextmanager
def watched_pool(options: PipelineOptions) -> Iterator[None]:
    """Says on stderr, while a block runs, that a pool of this machine starts no workers."""
    pool = pool_here(options)
    over = threading.Event()

    def watch() -> None:
        if pool is None or over.wait(QUIET_SECONDS):
            return
        if not starts_workers(pool, START_SECONDS) and not over.is_set():
            print(
                f"the pool of workers at {pool} starts none, and this job waits for one: the "
                "pool's own output says why; end this with Ctrl-C, let its `python` be one with "
                "'latent-store[beam]', and run the same command again",
                file=sys.stderr,
            )

    threading.Thread(target=watch, name="pool", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def pool_here(options: PipelineOptions) -> str | None:
    """Returns the address of a job's pool, if that means this machine.

    Where the job service is elsewhere, it means the machines of the runner.
    """
    portable = options.view_as(PortableOptions)
    pool, endpoint = portable.environment_config, portable.job_endpoint
    near = endpoint in (None, "embed") or is_here(str(endpoint))
    external = portable.environment_type == "EXTERNAL" and near
    return str(pool) if external and pool and is_here(pool) else None


def is_here(endpoint: str) -> bool:
    """Tells whether an address is one of this machine."""
    return endpoint.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


def starts_workers(pool: str, seconds: float) -> bool:
    """Asks a pool for a worker, and tells whether it calls in time; then it is sent away."""
    called = threading.Event()

    class Calls(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            called.set()
            return grpc.stream_stream_rpc_method_handler(lambda *_: iter(()))

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Calls()])
    url = f"localhost:{server.add_insecure_port('localhost:0')}"
    server.start()
    worker_id = f"asked-{uuid4().hex[:8]}"
    here = endpoints_pb2.ApiServiceDescriptor(url=url)
    names = ("control_endpoint", "artifact_endpoint", "provision_endpoint", "logging_endpoint")
    with grpc.insecure_channel(pool) as channel, contextlib.suppress(grpc.RpcError):
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        request = dict.fromkeys(names, here)
        stub.StartWorker(
            beam_fn_api_pb2.StartWorkerRequest(worker_id=worker_id, **request), timeout=seconds
        )
        called.wait(seconds)
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=worker_id), timeout=seconds)
    server.stop(0)
    return called.is_set()
