"""The options of Beam as a command takes them: every flag known, every runner by its name."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from latent_store.console import alike, make_parser
from latent_store.errors import LatentStoreError, MissingExtraError

DEFAULT_RUNNER = "FnApiRunner"
"""Beam's DirectRunner tries Prism first, which downloads a binary; this one is in the process."""
DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
RUNNERS = {
    "DirectRunner": DEFAULT_RUNNER,
    "DaskRunner": DASK_RUNNER,
    **{
        name: name
        for name in (
            DEFAULT_RUNNER,
            "PortableRunner",
            "PrismRunner",
            "FlinkRunner",
            "SparkRunner",
            "DataflowRunner",
        )
    },
}
"""What `--runner` says -> what Beam is told. Beam's own list lacks Dask's."""


class StoreOptions(PipelineOptions):
    """What a job tells its runner of itself, which no flag says."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument("--store_url")


def read_options(
    command: str, words: Sequence[str], own_flags: Collection[str] = ()
) -> PipelineOptions:
    """Reads what a job's own parser left, and names its runner.

    Args:
        command: For messages.
        words: Of the command line.
        own_flags: Of the job's own parser, one of which an unknown flag may have meant.

    Raises:
        LatentStoreError: A flag that Beam does not know either; Beam itself would drop it with a
            log line, and a misspelt flag would silently mean its default. Or nobody knows the
            runner.
        MissingExtraError: A flag is Dask's, which is not installed.
    """
    if any("dask" in word.lower() for word in words):
        _load_dask_flags()
    unknown = _unknown_to_beam(command, words)
    if unknown:
        meant = alike(unknown[0].partition("=")[0], own_flags)
        raise LatentStoreError(
            f"unknown flag {unknown[0]}{f', {meant} is one' if meant else ''}; see --help for this "
            "command's flags, Beam's are its own"
        )
    options = PipelineOptions(list(words))
    standard = options.view_as(StandardOptions)
    standard.runner = _runner_named(standard.runner or DEFAULT_RUNNER)
    if standard.runner != DASK_RUNNER:
        foreign = [word.partition("=")[0] for word in words if word.startswith("--dask_")]
        if foreign:
            raise LatentStoreError(
                f"{foreign[0]} is a flag of --runner DaskRunner, the runner is "
                f"{runner_name(options)}; give --runner DaskRunner, or leave the flag out"
            )
    return options


def runner_name(options: PipelineOptions) -> str:
    """Returns the runner's name, without its module."""
    return str(options.view_as(StandardOptions).runner).rpartition(".")[2]


def dask_options(options: PipelineOptions) -> dict[str, Any]:
    """Returns the flags of Dask that were given, by the names that Dask's client has for them."""
    from apache_beam.runners.dask.dask_runner import DaskOptions

    given = options.view_as(DaskOptions).get_all_options(drop_default=True, current_only=True)
    return dict(given)


def _runner_named(name: str) -> str:
    if "." in name:
        return name
    # Without its ending and in any case, as Beam takes names.
    known = {alias.lower(): runner for alias, runner in RUNNERS.items()}
    found = known.get(name.lower()) or known.get(f"{name.lower()}runner")
    if found is None:
        raise LatentStoreError(
            f"--runner {name} is no runner; choose one of {', '.join(RUNNERS)}, or give the full "
            "name of a class"
        )
    return found


def _load_dask_flags() -> None:
    """Imports what tells Beam of Dask's flags, which takes a second."""
    try:
        # In this order: Beam's goes on without the other, and stumbles over that later.
        for name in ("distributed", "apache_beam.runners.dask.dask_runner"):
            import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"--runner DaskRunner needs Dask ({error}): pip install 'latent-store[xarray]'"
        ) from error


def _unknown_to_beam(command: str, rest: Sequence[str]) -> list[str]:
    parser = make_parser(command, "")
    parser.register("type", None, str)  # Some texts of Beam's are empty by default.
    for option_class in PipelineOptions.__subclasses__():
        if option_class is StoreOptions:
            continue
        # Beam offers no public way to ask whether it knows a flag; its own check does this.
        tolerant: Any = _Tolerant(parser)
        option_class._add_argparse_args(tolerant)
    _, unknown = parser.parse_known_args(list(rest))
    return unknown


class _Tolerant:
    """Adds arguments to a parser, or to a group of one, once each; option classes of Beam repeat
    some."""

    def __init__(self, parser: argparse._ActionsContainer):
        self.parser = parser

    def add_argument(self, *names: str, **settings: Any) -> None:
        try:
            self.parser.add_argument(*names, **settings)
        except argparse.ArgumentError:
            return

    def add_value_provider_argument(self, *names: str, **settings: Any) -> None:
        self.add_argument(*names, **settings)

    def add_argument_group(self, *names: str, **settings: Any) -> _Tolerant:
        return _Tolerant(self.parser.add_argument_group(*names, **settings))

    def add_mutually_exclusive_group(self, **settings: Any) -> _Tolerant:
        return _Tolerant(self.parser.add_mutually_exclusive_group(**settings))
