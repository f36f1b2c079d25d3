"""Pipelines on runners of other processes: quiet, and ended where Beam waits without an end.

Beam's job service and its threads run in this process, print what breaks there, and tell nobody
who waits for them.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from concurrent import futures
from types import TracebackType
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.transforms.environments import Environment, ExternalEnvironment

from latent_store.errors import JobFailedError, LatentStoreError
from latent_store.storage.object_stores import begun
from pipelines.jobs.worker_versions import AlikeWork

EMBEDDED = "embed"
"""The `--job_endpoint` that means Beam's own job service, in this process."""
TELL_SECONDS = 10.0
"""Between two calls of what tells of a job."""
_RUNS = "_run_job"
_NEEDED = ("beam_control_read", _RUNS)
"""In the names of Beam's threads that a job waits for: one hears a worker, one runs the job."""
_GRACE_SECONDS = 2.0
"""A job may take to end after what runs it has."""
_CLOSE_SECONDS = 30.0
"""A job may take to end after the last that heard a worker has: one that is done closes these
first, then its servers and workers, each with seconds of its own."""
_CANCEL_SECONDS = 5.0
_POLL_SECONDS = 0.1
_OF_GRPC = re.compile(r'status = StatusCode\.(\w+)\s+details = "(.*)"')
"""In the text of an error of gRPC's, of which the last line says nothing; Beam's have it too."""
_SERVICE_LOGGERS = ("PrismJobServer", "FlinkJarJobServer", "SparkJarJobServer")


def run_elsewhere(
    pipeline: beam.Pipeline, tell: Callable[[Any], None], seconds: float | None = None
) -> Any:
    """Runs a pipeline whose workers are other processes; Beam prints nothing meanwhile.

    Args:
        pipeline: Its options say where.
        tell: Gets Beam's result when the job was given away, every `TELL_SECONDS` then, and when
            the job has ended.
        seconds: That it may take; None: any number.

    Returns:
        The state of Beam's job.

    Raises:
        JobFailedError: A worker ended, for which Beam's own job service waits without an end.
        TimeoutError: It took longer.
        Exception: What Beam raises.
    """
    embedded = pipeline.options.view_as(PortableOptions).job_endpoint == EMBEDDED
    others = set(threading.enumerate())
    with _quiet():
        # Threads of Beam's own service outlive this process, unless their parent is a daemon. A
        # service that Beam starts handles signals, which takes the main thread.
        if embedded:
            result = _awaited(pipeline.run, others, seconds)
        else:
            with _ended_after(seconds):
                result = pipeline.run()
        tell(result)
        try:
            state = _awaited(result.wait_until_finish, others, seconds, lambda: tell(result))
        except TimeoutError:
            with contextlib.suppress(Exception):  # A service that does not answer keeps the job.
                _awaited(result.cancel, set(threading.enumerate()), _CANCEL_SECONDS)
            raise
        except Exception as error:
            # Dataflow's of a job that has ended brings its result; of another that takes minutes.
            if getattr(error, "result", None) is result:
                tell(result)
            raise
        tell(result)
        return state


def require_worker(options: PipelineOptions, seconds: float) -> None:
    """Runs one element, so that a job finds a worker, with the launcher's versions.

    Raises:
        LatentStoreError: In Beam's words, or none began in time.
    """
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | "One" >> beam.Create([0]) | "Try" >> beam.Map(AlikeWork(_nothing))
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        run_elsewhere(pipeline, lambda _: None, seconds)
    except TimeoutError:
        raise LatentStoreError(f"none began within {seconds:.0f} seconds") from None
    except Exception as error:
        raise LatentStoreError(reason_of(error)) from error
    finally:
        logging.disable(disabled)


def pool_near(options: PipelineOptions) -> str | None:
    """Returns the address of a job's pool of workers (`--environment_type EXTERNAL`), if it means
    the same machine to this process.

    Where the job service is elsewhere, it means one to the machines of the runner.
    """
    portable = options.view_as(PortableOptions)
    if portable.environment_type is None:
        return None
    environment, endpoint = Environment.from_options(portable), portable.job_endpoint
    if not isinstance(environment, ExternalEnvironment):
        return None
    pool = str(environment.url)
    near = endpoint in (None, EMBEDDED) or (is_here(str(endpoint)) and is_here(pool))
    return pool if near else None


def is_here(endpoint: str) -> bool:
    """Tells whether an address is one of this machine."""
    return endpoint.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


def reason_of(error: BaseException) -> str:
    """Returns the line of an error that says why."""
    if answers := _OF_GRPC.findall(str(error)):
        return ": ".join(answers[-1])
    lines = [line.strip() for line in str(error).splitlines() if line.strip() not in ("", "None")]
    # Beam's last line is the reason, above it stand the frames.
    return lines[-1] if lines else type(error).__name__


def _nothing(shard: int) -> int:
    return shard


def _awaited(
    call: Callable[[], Any],
    others: Collection[threading.Thread],
    seconds: float | None,
    tell: Callable[[], None] = lambda: None,
) -> Any:
    """Returns what a call on a thread of its own gives, which ends with this process.

    `others` are threads of no concern to it.
    """
    ended = begun(call, "elsewhere")
    start = told = changed = time.monotonic()
    needed: set[threading.Thread] = set()
    over: set[threading.Thread] = set()
    while not futures.wait([ended], timeout=_POLL_SECONDS).done:
        now = time.monotonic()
        needed |= {thread for thread in threading.enumerate() if _is_needed(thread)} - {*others}
        before, over = over, {thread for thread in needed if not thread.is_alive()}
        changed = changed if over == before else now
        ran = any(_RUNS in thread.name for thread in over)
        if over and now - changed > (_GRACE_SECONDS if ran else _CLOSE_SECONDS):
            raise JobFailedError(
                "a worker ended before its shard was done, or Beam's job service did: out of "
                "memory, most likely, and its own output may say more; run the same command again "
                "to go on"
            )
        if seconds is not None and now - start > seconds:
            raise TimeoutError
        if now - told > TELL_SECONDS:
            told = now
            tell()
    return ended.result()


class _LateError(BaseException):
    """No `Exception`, after which Beam would start its service again."""


@contextlib.contextmanager
def _ended_after(seconds: float | None) -> Iterator[None]:
    """Ends a block of the main thread that takes longer: Beam waits for a service that it started
    as long as the service lives, whether or not it serves.

    Raises:
        TimeoutError: In the block.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise _LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _LateError:
        raise TimeoutError from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lets Beam, its services and its threads print nothing while a block runs."""
    before = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if not _is_beams(died.exc_traceback):
            before(died)

    # Threads of a job that was lost go on, and so does this.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)
    for name in _SERVICE_LOGGERS:
        logging.getLogger(name).disabled = True
    root = logging.getLogger()
    root.addFilter(_none)  # Of what is logged by no logger's name, as Beam does with errors.
    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
        root.removeFilter(_none)


def _is_needed(thread: threading.Thread) -> bool:
    return any(name in thread.name for name in _NEEDED)


def _none(_: logging.LogRecord) -> bool:
    return False


def _is_beams(frames: TracebackType | None) -> bool:
    names = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(frames))
    return any(name.partition(".")[0] in ("apache_beam", "grpc") for name in names)
