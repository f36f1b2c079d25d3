"""The launch of every job of the project: its elements, shards, spread by the runner that is
asked for."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.runner import PipelineState

from latent_store.errors import JobFailedError, LatentStoreError, public_url
from pipelines.jobs.beam_options import (
    DEFAULT_RUNNER,
    StoreOptions,
    read_options,
    runner_name,
)
from pipelines.jobs.portable_pipelines import reason_of, run_elsewhere
from pipelines.jobs.runner_checks import require_runnable
from pipelines.jobs.worker_processes import run_in_processes, usable_cores
from pipelines.jobs.worker_versions import AlikeWork


def beam_options(
    command: str,
    words: Sequence[str],
    places: Mapping[str, str] | None = None,
    own_flags: Collection[str] = (),
) -> PipelineOptions:
    """Reads what a job's own parser left, and asks what the runner needs.

    Args:
        command: For messages.
        words: Of the command line.
        places: Flag -> folder or URL that workers read or write.
        own_flags: Of the job's own parser.

    Raises:
        LatentStoreError: See `read_options` and `require_runnable`.
    """
    # Beam logs a line for every stage; a job's own progress and errors are what a user needs.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    options = read_options(command, words, own_flags)
    require_runnable(options, places or {})
    if runner_name(options) == "DataflowRunner":
        options.view_as(StoreOptions).store_url = public_url((places or {}).get("--store", ""))
    return options


def runs_here(options: PipelineOptions) -> bool:
    """Tells whether a job's workers are this process and others that it starts on this machine."""
    loopback = options.view_as(PortableOptions).environment_type == "LOOPBACK"
    return loopback or runner_name(options) == DEFAULT_RUNNER


def worker_cores(options: PipelineOptions) -> int | None:
    """Returns the cores that one worker may use; None elsewhere, where it knows (`own_cores`)."""
    if not runs_here(options):
        return None
    return max(1, usable_cores() // _local_workers(options))


def own_cores() -> int:
    """Returns the cores that a shard may use on the worker elsewhere that this process is.

    Dask says how many shards a worker has at a time, and the workers that one command starts share
    its cores. Other runners start a worker a core.
    """
    distributed = sys.modules.get("distributed")
    try:
        slots = distributed.get_worker().state.nthreads if distributed else 0
    except ValueError:  # None of Dask's.
        slots = 0
    if not slots:
        return 1
    # Dask brings it.
    import psutil  # type: ignore[import-untyped]

    def is_spawned(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return "spawn_main" in " ".join(process.cmdline())
        return False

    together = 1
    with contextlib.suppress(psutil.Error):
        own = psutil.Process()
        # What else the parent of a worker that was not spawned has begun is none of Dask's.
        if is_spawned(own) and (parent := own.parent()):
            together = sum(map(is_spawned, parent.children()))
    return max(1, usable_cores() // (slots * max(1, together)))


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """What becomes of the results of a job's elements.

    Attributes:
        add: Adds some up, whatever their order and grouping.
        keep: Gets the whole, on a worker or here.
    """

    add: Callable[[Iterable[Any]], Any]
    keep: Callable[[Any], object]


def run_over_shards(
    name: str,
    shards: Sequence[int],
    work: Callable[[int], Any],
    options: PipelineOptions,
    gathering: Gathering | None = None,
) -> None:
    """Runs `work` on each shard number, one element a shard.

    Args:
        name: Label of the step.
        shards: Shard numbers.
        work: A picklable function of an importable module; it must not raise for one bad shard.
        options: Beam's options; the runner is set.
        gathering: What becomes of the results.

    Raises:
        JobFailedError: The runner refused or lost the job.
        KeyboardInterrupt: After Ctrl-C, wherever it came.
    """
    with _one_interrupt():
        if runner_name(options) == "DaskRunner":
            # It loads Dask.
            from pipelines.jobs.dask_jobs import run_on_dask

            with _refusals_in_one_line(options):
                _gather(run_on_dask(name, shards, work, options), gathering)
        elif _in_processes(options):
            _gather(run_in_processes(name, shards, work, _local_workers(options)), gathering)
        else:
            _run_pipeline(name, shards, work, options, gathering)


def _gather(results: Iterable[Any], gathering: Gathering | None) -> None:
    if gathering is None:
        for _ in results:
            pass
    else:
        gathering.keep(gathering.add(results))


def _run_pipeline(
    name: str,
    shards: Sequence[int],
    work: Callable[[int], Any],
    options: PipelineOptions,
    gathering: Gathering | None,
) -> None:
    pipeline = beam.Pipeline(options=options)
    here = runner_name(options) == DEFAULT_RUNNER
    results = (
        pipeline
        | "Shards" >> beam.Create(list(shards))
        | "Spread" >> beam.Reshuffle()
        | name >> beam.Map(work if here else AlikeWork(work))
    )
    if gathering is not None:
        added = results | "Add" >> beam.CombineGlobally(gathering.add)
        _ = added | "Keep" >> beam.Map(gathering.keep)
    try:
        if here:
            # An error in this process is a bug, or says what it is.
            state = pipeline.run().wait_until_finish()
        else:
            with _refusals_in_one_line(options):
                state = run_elsewhere(pipeline, job_teller(options))
    finally:
        shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)
    if state not in (None, PipelineState.DONE):
        raise JobFailedError(
            f"{runner_name(options)} ended the job as {state}; its own logs say why; run the same "
            "command again to go on"
        )


def job_teller(options: PipelineOptions) -> Callable[[Any], None]:
    """Returns what says on stderr where Dataflow shows its job, what closes its store, and the
    job's state when that has changed."""
    if runner_name(options) != "DataflowRunner":
        return lambda _: None
    cloud, store = options.view_as(GoogleCloudOptions), options.view_as(StoreOptions).store_url
    told: list[str] = []

    def tell(result: Any) -> None:
        job, state = result.job_id(), "of a state that is not told"
        with contextlib.suppress(Exception):  # Whether the job lives is for who waits to say.
            # At first what the job's creation was answered: who asks may have to wait for minutes.
            state = str(result.state if told else result._get_job_state())
        if state in told[-1:]:
            return
        line = f"Dataflow: job {job} is {state}"
        if not told:
            place = f"jobs/{cloud.region}/{job}?project={cloud.project}"
            line += (
                f", this process waits for it: https://console.cloud.google.com/dataflow/{place}; "
                "if this process ends before the job, latent-store finalize "
                f"{store} closes what is whole"
            )
        told.append(state)
        print(line, file=sys.stderr)

    return tell


@contextlib.contextmanager
def _refusals_in_one_line(options: PipelineOptions) -> Iterator[None]:
    """Turns what a runner elsewhere raises, of its own kinds and with pages of its own words."""
    try:
        yield
    except LatentStoreError:
        raise
    except Exception as error:
        raise JobFailedError(
            f"{runner_name(options)} could not run the job: {reason_of(error)}; run the same "
            "command again to go on"
        ) from error


def _in_processes(options: PipelineOptions) -> bool:
    mode = options.view_as(DirectOptions).direct_running_mode
    return bool(mode == "multi_processing" and runner_name(options) == DEFAULT_RUNNER)


def _local_workers(options: PipelineOptions) -> int:
    return int(options.view_as(DirectOptions).direct_num_workers or usable_cores())


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Lets Ctrl-C end a block as an interrupt and nothing else.

    Beam takes it for an error of the shard that it falls into, and logs what else breaks then.
    """
    seen = threading.Event()

    def interrupt(*_: object) -> None:
        seen.set()
        logging.disable(logging.CRITICAL)
        threading.excepthook = lambda _: None
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGINT, interrupt), threading.excepthook
    disabled = logging.root.manager.disable
    try:
        yield
    except BaseException:
        if seen.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        threading.excepthook = hook
        logging.disable(disabled)
