"""`encode-to-store`: the Beam job that turns a dataset into latents, once."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latent_store.codec.families.registry import DEFAULT_ARCHITECTURE, FAMILIES
from latent_store.components import creation
from latent_store.components.checking import component_tables
from latent_store.components.features import STEM
from latent_store.components.settlement import settle
from latent_store.console import MOST_THREADS, Number, run_command
from latent_store.errors import LatentStoreError, LeaseHeldError
from latent_store.format.feature_encoding import ENCODINGS
from latent_store.format.ids import VIEWS
from latent_store.format.schema import PAD_MULTIPLE
from latent_store.shards.index import part_name
from latent_store.storage.lease import Lease
from latent_store.storage.object_stores import input_file
from latent_store.views.inventory import count_rows
from pipelines.datasets.registry import DatasetFlags
from pipelines.jobs.job_flags import (
    DEFAULT_SAMPLES_PER_SHARD,
    MOST_AT_ONCE,
    PSNR_ROWS,
    make_job_parser,
    parse_flags,
)
from training.flags import add_flags
from training.networks.backbones import ENTRIES

if TYPE_CHECKING:
    from pipelines.jobs.encode_request import EncodeRequest
    from pipelines.jobs.encoding import Encoder

DESCRIPTION = """
Encodes a split of a dataset into a latent store, once: real bitstreams, exact latents, the
ledger of bits per channel, labels or boxes and, with --teacher_checkpoint, teacher features.

Run it again after an interruption and it goes on; with another codec, a teacher or more samples
it adds what is missing and touches nothing else.
"""
EXAMPLES = """
examples:
  encode-to-store --dataset cityscapes --data_root /data/cityscapes --split train \\
      --store cityscapes.zarr --quality 2 --teacher_checkpoint teacher/last.pt
  encode-to-store --dataset cityscapes --data_root /data/cityscapes --split val \\
      --store cityscapes.zarr --demo_codec --max_samples 32 --dry_run
  encode-to-store --dataset voc --voc_task detection --year 2007 --data_root /data/VOCdevkit \\
      --split trainval --store voc.zarr --quality 2
  encode-to-store --dataset folder --data_root photos --split train --store photos.zarr --quality 2
"""


LARGEST_CANVAS = 65_536
"""Pixels a side: the most that JPEG and most readers know."""

_OF_SOURCES = {
    "quality": ("metric", "architecture"),
    "teacher_checkpoint": ("entry", "teacher_dtype"),
}
"""By the flag of a source: other flags that mean nothing without it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    return run_command("encode-to-store", lambda: _run(argv))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_job_parser("encode-to-store", DESCRIPTION, EXAMPLES)
    add_flags(parser, DatasetFlags, "dataset")
    add = parser.add_argument_group("data").add_argument
    add("--split", required=True, help="split to encode, e.g. train")
    name = "name of the dataset in the store (default: the layout's; voc2012; voc0712 of two)"
    add("--dataset_id", help=name)
    few = "only the first N samples; the rest can follow later"
    add("--max_samples", type=Number(int, 1), help=few)
    add(
        "--canvas",
        type=Number(int, PAD_MULTIPLE, LARGEST_CANVAS),
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="store pictures of any size up to this one, in pixels, multiples of 64; each is coded "
        "at its own size (default: what the store or the dataset has, or one size for all)",
    )
    add(
        "--views",
        nargs="+",
        choices=VIEWS,
        default=[],
        help="also store views of every picture, as rows of their own: hflip is mirrored left to "
        "right; they can follow later, and stay once they are there",
    )
    _add_components(parser)
    add = parser.add_argument_group("job").add_argument
    add(
        "--samples_per_shard",
        type=Number(int, 1),
        help=f"rows in one object (default: what the store has, or {DEFAULT_SAMPLES_PER_SHARD})",
    )
    add(
        "--max_failures",
        type=Number(int),
        help="failed samples that are tolerated (default: what the store's job tolerated, or 0); "
        "fewer than it has failed tries those again, as after mending them",
    )
    threads = Number(int, 1, MOST_THREADS)
    add(
        "--threads",
        type=threads,
        help="cores that a worker uses: as many pictures are under way at once, "
        f"{MOST_AT_ONCE} at most, each on one thread (default: cores / workers)",
    )
    device = "auto, cpu, cuda or cuda:N; of codec and teacher, on the workers wherever they are"
    add("--device", default="cpu", help=device)
    add(
        "--dry_run",
        action="store_true",
        help="print the plan, with hours and bytes after compression as "
        "one picture takes them, and write nothing",
    )
    add("--steal_lease", action="store_true", help="take over from a job that is known dead")
    return parser


def _add_components(parser: argparse.ArgumentParser) -> None:
    kinds = " or ".join(FAMILIES)
    add = parser.add_mutually_exclusive_group().add_argument
    add("--codec_checkpoint", type=input_file, help=f"file or URL: {kinds}")
    add("--quality", type=Number(int, 1, 8), help="weights of CompressAI's zoo, quality 1 to 8")
    add("--demo_codec", action="store_true", help="the small codec that ships with the package")
    add = parser.add_argument_group("what is stored").add_argument
    add("--metric", default="mse", choices=["mse", "ms-ssim"], help="metric of --quality")
    add(
        "--architecture",
        default=DEFAULT_ARCHITECTURE,
        choices=FAMILIES,
        help="architecture of --quality (default: %(default)s); a file says what it is",
    )
    add(
        "--teacher_checkpoint", type=input_file, help="file that train-teacher wrote: adds features"
    )
    add(
        "--entry",
        default=STEM,
        choices=ENTRIES,
        help="the teacher's layer after which its features are taken: where networks on latents "
        "are to begin; each entry is a component of its own",
    )
    add(
        "--teacher_dtype",
        choices=ENCODINGS,
        help="of features; float16-bitround keeps few mantissa bits, which compress (default: what "
        "the store has, or uint8, and float16-bitround where features may be negative)",
    )
    auto = "auto: int8 if the range of a few pictures leaves room"
    add("--y_hat_dtype", default="auto", choices=["auto", "int8", "int16"], help=auto)
    every = PSNR_ROWS["sample"]
    few = f"pictures that are decoded to pixels and measured: sample is one in {every}, since the "
    few += "decoding costs as much as all the rest (default: %(default)s)"
    add("--psnr", default="sample", choices=list(PSNR_ROWS), help=few)


def _refuse_idle(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Refuses flags of a source that is not given.

    Raises:
        LatentStoreError: Names the first of them.
    """
    for source, others in _OF_SOURCES.items():
        for name in others:
            value = getattr(flags, name)
            if getattr(flags, source) is None and value != parser.get_default(name):
                raise LatentStoreError(
                    f"--{name} {value} is of --{source}, which is not given: give both, or neither"
                )


def _run(argv: Sequence[str] | None) -> int:
    parser = make_flags()
    flags, options = parse_flags(parser, argv)
    _refuse_idle(parser, flags)
    # They load torch, which parsing needs not.
    from pipelines.jobs.beam_jobs import runs_here
    from pipelines.jobs.component_job import leased
    from pipelines.jobs.encode_request import EncodeRequest
    from pipelines.jobs.encoding import tell_of_same_pictures

    request = EncodeRequest(flags, here=runs_here(options))
    if flags.dry_run:
        from pipelines.jobs.dry_run import describe_request

        tell_of_same_pictures(request.location, request.plan)
        print(describe_request(request, options))
        return 0
    if not creation.create_store(request.location):
        tell_of_same_pictures(request.location, request.plan)
    request.write_plan()
    plan, asked = request.plan, request.ask_encoders()
    encoders = [encoder for encoder in asked if not request.is_complete(encoder)]
    _settle(request, [encoder for encoder in asked if encoder not in encoders])
    if not encoders:
        failed = max(request.count_failed(encoder.spec.key) for encoder in asked)
        more = f", {failed} of them failed; --max_failures 0 tries those again" if failed else ""
        there = f"everything asked for is there ({plan.describe_samples()}{more})"
        print(f"{plan.name}: {there}")
        return 0
    keys = [encoder.spec.key for encoder in encoders]
    lease = leased(request.location, plan.name, keys, steal=flags.steal_lease)
    with lease as claims, request.location.owning(*request.codec_arrays):
        job = request.make_job(encoders, claims, options)
        for closed in job.run(plan, options):
            where = f" in {closed.num_shards} shards"
            table = component_tables(closed)[part_name(closed.component)]
            text = count_rows(plan, table, closed.component).describe(where)
            print(f"{closed.split}/{closed.component}: {text}")
    return 0


def _settle(request: EncodeRequest, sealed: Sequence[Encoder]) -> None:
    """Does what a job has not done that was killed when it had come as far as the seal."""
    with contextlib.ExitStack() as leases:
        held = []
        for encoder in sealed:
            # A job that holds one does this itself.
            with contextlib.suppress(LeaseHeldError):
                lease = Lease(request.location, request.plan.name, encoder.spec.key)
                leases.enter_context(lease)
                held.append(encoder)
        request.look_again()
        whole = [encoder.spec.key for encoder in held if request.is_complete(encoder)]
        if whole:
            settle(request.location, request.plan.name, *whole)


if __name__ == "__main__":
    sys.exit(main())
