"""The flags of every job over a store's shards: its own, and Beam's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latent_store.console import add_storage_flag, flags_of, make_parser

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

DEFAULT_SAMPLES_PER_SHARD = 16
MOST_AT_ONCE = 8
"""Pictures under way in one process: one of 1024×2048 takes half a GB, and entropy coding keeps the
interpreter to itself for a tenth to a fifth of a picture's time."""
MOST_ON_CARD = 2
"""The same on a GPU: one is read while another is computed."""
PSNR_ROWS = {"none": 0, "sample": 16, "all": 1}
"""By the choices of `--psnr`: every so many rows, one is decoded to pixels and measured."""

_RUNNER_HELP = """
Every Beam option is accepted too. Without --runner the job runs in this process;
  --direct_running_mode multi_processing --direct_num_workers 4   uses processes of this machine,
  --runner DaskRunner --dask_client_address tcp://HOST:8786        uses a Dask cluster,
  --runner DataflowRunner --project P --region R --temp_location gs://... \\
      --sdk_container_image IMAGE --sdk_location container         uses Dataflow,
  --runner PortableRunner --job_endpoint HOST:PORT                 uses a portable job service.
The command waits for its workers, wherever they are; run again after any end, it goes on.
"""


def make_job_parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Returns the parser of a job over a store's shards, with the flag that all of them have."""
    parser = make_parser(command, description, examples + _RUNNER_HELP)
    parser.add_argument("--store", required=True, help="folder or URL of the store")
    add_storage_flag(parser)
    return parser


def parse_flags(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, PipelineOptions]:
    """Parses a job's own flags, then loads Beam and hands it the rest.

    Raises:
        LatentStoreError: See `beam_options`.
    """
    flags, rest = parser.parse_known_args(argv)
    from pipelines.jobs.beam_jobs import beam_options

    given = {f"--{name}": getattr(flags, name, None) for name in ("store", "data_root")}
    places = {flag: place for flag, place in given.items() if place}
    return flags, beam_options(parser.prog, rest, places, flags_of(parser))
