"""The launch of every Beam job of the project: its runner, flags that are Beam's, its elements."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.pvalue import PCollection
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment

from latent_store.console import MOST_THREADS, Number, make_parser
from latent_store.errors import LatentStoreError

DEFAULT_RUNNER = "FnApiRunner"
"""Beam's DirectRunner tries Prism first, which downloads a binary; this one is in the process."""


def beam_options(command: str, words: Sequence[str]) -> PipelineOptions:
    """Reads what a job's own parser left.

    Raises:
        LatentStoreError: A flag that Beam does not know either; Beam itself would drop it with a
            log line, and a misspelt flag would silently mean its default. Or Beam cannot run with
            what it is given.
    """
    unknown = _unknown_to_beam(command, words)
    if unknown:
        raise LatentStoreError(
            f"unknown flag {unknown[0]}; see --help for this command's flags, Beam's are its own"
        )
    options = PipelineOptions(list(words))
    standard = options.view_as(StandardOptions)
    if standard.runner is None:
        standard.runner = DEFAULT_RUNNER
    _require_runnable(options)
    return options


def local_threads(options: PipelineOptions) -> int:
    """Returns the threads that one local worker may use: the cores, shared among the workers."""
    workers = max(1, options.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1)
    return max(1, (os.cpu_count() or 1) // workers)


def run_over_shards(
    name: str,
    shards: Sequence[int],
    work: Callable[[int], Any],
    options: PipelineOptions,
    collect: Callable[[PCollection], object] | None = None,
) -> None:
    """Runs `work` on each shard number, one element a shard.

    Args:
        name: Label of the step.
        shards: Shard numbers.
        work: A picklable function of an importable module; it must not raise for one bad shard.
        options: Beam's options; the runner is set.
        collect: Further transforms on the results.

    Raises:
        JobFailedError: The runner refused or lost the job.
        KeyboardInterrupt: After Ctrl-C, wherever it came.
    """
    # Beam logs a line for every stage; a job's own progress and errors are what a user needs.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    runner, options = _own_workers(options)
    with _one_interrupt(), beam.Pipeline(runner=runner, options=options) as pipeline:
        results = (
            pipeline
            | "Shards" >> beam.Create(list(shards))
            | "Spread" >> beam.Reshuffle()
            | name >> beam.Map(work)
        )
        if collect is not None:
            collect(results)


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
    try:
        yield
    except BaseException:
        if seen.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        threading.excepthook = hook
        logging.disable(logging.NOTSET)


def _own_workers(options: PipelineOptions) -> tuple[PipelineRunner | None, PipelineOptions]:
    """Returns the runner of worker processes of this machine, which leave Ctrl-C to this process.

    For other runners the first is None, and the options name one.
    """
    direct = options.view_as(DirectOptions)
    processes = direct.direct_running_mode == "multi_processing"
    if not processes or options.view_as(StandardOptions).runner != DEFAULT_RUNNER:
        return None, options
    worker = f"{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    # What is ignored stays ignored in the process that a shell becomes. Its log comes here another
    # way, as far as it is of warnings and errors.
    command = f"trap '' INT; exec {worker} 2> {os.devnull}"
    environment = SubprocessSDKEnvironment.from_command_string(command)
    options = PipelineOptions.from_dictionary(options.get_all_options(drop_default=True))
    options.view_as(DirectOptions).direct_running_mode = "in_memory"
    return FnApiRunner(default_environment=environment), options


def _require_runnable(options: PipelineOptions) -> None:
    """Refuses what Beam would refuse only after the plan was written."""
    direct = options.view_as(DirectOptions)
    for name, most in (("direct_num_workers", MOST_THREADS), ("direct_runner_bundle_repeat", None)):
        if refusal := Number(int, most=most).refusal(getattr(direct, name)):
            raise LatentStoreError(f"--{name} {refusal}")
    try:
        # Making a pipeline finds the runner and the pickle library, and runs Beam's validators.
        pipeline = beam.Pipeline(options=options)
        portable = options.view_as(PortableOptions)
        if portable.environment_type:
            Environment.from_options(portable)
    except (ImportError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise LatentStoreError(
            f"Beam cannot run with these options: {error}; see --help for runners that can"
        ) from error
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)
    remote = type(pipeline.runner).__name__ == "PortableRunner"
    if remote and not portable.job_endpoint:
        raise LatentStoreError("--runner PortableRunner needs --job_endpoint HOST:PORT, got none")


def _unknown_to_beam(command: str, rest: Sequence[str]) -> list[str]:
    parser = make_parser(command, "")
    parser.register("type", None, str)  # Some texts of Beam's are empty by default.
    for option_class in PipelineOptions.__subclasses__():
        # Beam offers no public way to ask whether it knows a flag; its own check does this.
        tolerant: Any = _Tolerant(parser)
        option_class._add_argparse_args(tolerant)
    _, unknown = parser.parse_known_args(list(rest))
    return unknown


class _Tolerant:
    """Adds arguments to a parser once each; option classes of Beam repeat some."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser

    def add_argument(self, *names: str, **settings: Any) -> None:
        try:
            self.parser.add_argument(*names, **settings)
        except argparse.ArgumentError:
            return

    def add_value_provider_argument(self, *names: str, **settings: Any) -> None:
        self.add_argument(*names, **settings)
