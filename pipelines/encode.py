"""`encode-to-store`: the Beam job that turns a dataset into latents, once."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from latent_store.components import base as component
from latent_store.console import make_parser, run_command
from latent_store.errors import LatentStoreError
from latent_store.format.feature_encoding import ENCODINGS
from latent_store.format.ids import VIEWS
from latent_store.format.plan import ShardPlan, plan_key
from latent_store.storage.lease import Lease
from latent_store.storage.location import Location
from latent_store.views.summary import describe_rows
from pipelines.datasets.registry import DatasetFlags
from pipelines.jobs import encode_plan
from pipelines.jobs.beam_jobs import RUNNER_HELP, local_threads, parse_flags
from pipelines.jobs.component_job import leased
from pipelines.jobs.encode_plan import DEFAULT_SAMPLES_PER_SHARD, Inputs
from pipelines.jobs.encoders import PSNR_ROWS, Encoder
from pipelines.jobs.encoding import EncodeJob
from training.flags import add_flags

DESCRIPTION = """
Encodes a split of a dataset into a latent store, once: real bitstreams, integer latents, the
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
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `--help`."""
    return run_command("encode-to-store", lambda: _run(argv))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("encode-to-store", DESCRIPTION, EXAMPLES + RUNNER_HELP)
    add_flags(parser, DatasetFlags, "dataset")
    add = parser.add_argument_group("data").add_argument
    add("--split", required=True, help="split to encode, e.g. train")
    add("--store", required=True, help="folder or URL of the store")
    add(
        "--dataset_id",
        help="name of the dataset in the store (default: cityscapes; voc2012; voc0712 for two "
        "years)",
    )
    add("--max_samples", type=int, help="only the first N samples; the rest can follow later")
    add(
        "--canvas",
        type=int,
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
    add = parser.add_mutually_exclusive_group().add_argument
    add("--codec_checkpoint", type=Path, help="checkpoint file of a bmshj2018-hyperprior")
    add("--quality", type=int, help="weights of CompressAI's zoo, quality 1 to 8")
    add("--demo_codec", action="store_true", help="the small codec that ships with the package")
    add = parser.add_argument_group("what is stored").add_argument
    add("--metric", default="mse", choices=["mse", "ms-ssim"], help="metric of --quality")
    add("--teacher_checkpoint", type=Path, help="file that train-teacher wrote: adds features")
    add(
        "--teacher_dtype",
        choices=ENCODINGS,
        help="of features; float16-bitround keeps few mantissa bits, which compress (default: what "
        "the store has, or uint8)",
    )
    add(
        "--y_hat_dtype",
        default="auto",
        choices=["auto", "int8", "int16"],
        help="auto: int8 if the range of a few pictures leaves room",
    )
    add("--psnr", default="all", choices=list(PSNR_ROWS), help="rows decoded to pixels")
    add = parser.add_argument_group("job").add_argument
    add(
        "--samples_per_shard",
        type=int,
        help=f"rows in one object (default: what the store has, or {DEFAULT_SAMPLES_PER_SHARD})",
    )
    add(
        "--max_failures",
        type=int,
        help="failed samples that are tolerated (default: what the store's job tolerated, or 0); "
        "fewer than it has failed tries those again, as after mending them",
    )
    add("--threads", type=int, help="torch threads a worker (default: cores / workers)")
    add("--dry_run", action="store_true", help="print the plan and write nothing")
    add("--steal_lease", action="store_true", help="take over from a job that is known dead")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    flags, options = parse_flags(make_flags(), argv)
    location = Location(flags.store)
    inputs = encode_plan.open_inputs(flags)
    dataset = flags.dataset_id or inputs.reader.dataset_id
    plan = encode_plan.settle_plan(location, dataset, flags, inputs)
    if flags.dry_run:
        asked = encode_plan.ask_encoders(location, plan, inputs, flags)
        print(encode_plan.describe(location, plan, asked, flags.max_failures))
        return 0
    component.create_store(location)
    with Lease(location, plan.name, "plan", steal=flags.steal_lease, wait_seconds=30):
        # Again, under the lease: another job may have appended meanwhile.
        plan = encode_plan.settle_plan(location, dataset, flags, inputs)
        location.write(plan_key(plan.dataset, plan.split), plan.to_json())
    asked = encode_plan.ask_encoders(location, plan, inputs, flags)
    encoders = [
        encoder
        for encoder in asked
        if not encode_plan.is_complete(location, plan, encoder, flags.max_failures)
    ]
    if not encoders:
        print(_nothing_to_do(location, plan, asked))
        return 0
    keys = [encoder.spec.key for encoder in encoders]
    with leased(location, plan.name, keys, steal=flags.steal_lease):
        inputs.register(location)
        job = _make_job(location, plan, encoders, inputs, flags, options)
        for closed in job.run(plan, options):
            where = f" in {closed.num_shards} shards"
            text = describe_rows(location, plan, closed.component, where)
            print(f"{closed.split}/{closed.component}: {text}")
    return 0


def _nothing_to_do(location: Location, plan: ShardPlan, asked: Sequence[Encoder]) -> str:
    text = f"{plan.name}: everything asked for is there ({plan.describe_samples()}"
    failed = max(encode_plan.count_failed(location, plan, encoder.spec.key) for encoder in asked)
    if not failed:
        return text + ")"
    return f"{text}, {failed} of them failed; --max_failures 0 tries those again)"


def _make_job(
    location: Location,
    plan: ShardPlan,
    encoders: Sequence[Encoder],
    inputs: Inputs,
    flags: argparse.Namespace,
    options: PipelineOptions,
) -> EncodeJob:
    threads = flags.threads or local_threads(options)
    for encoder in encoders:
        key = encoder.spec.key
        with contextlib.suppress(LatentStoreError):
            stored = component.open_component(location, plan.name, key)
            if encode_plan.outgrown(stored, encoder):
                component.forget_component(location, plan.name, key)
            else:
                threads = int(stored.attrs.get("encoder_threads", threads))
    return EncodeJob(
        store=location,
        split=plan.name,
        threads=threads,
        max_failures=flags.max_failures,
        reader=inputs.reader,
        encoders=tuple(encoders),
    )
