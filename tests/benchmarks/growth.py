"""What a sample costs in jobs over whole stores of different sizes: it must not grow with them.

    python -m tests.benchmarks.growth --shards 186 1860 18600

Rows are made: one small picture, really coded, stands in every row of every shard, and all shards
but the first are links to its objects with receipts of their own. What is measured is real: the
commands `channel-frequency --method variance` and `reorder-latents`, and opening. Times are the
processor's (a shared machine's clock says little), less those of the same on a store of one shard,
which has what a run costs once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import latent_store
from latent_store.catalogue import codecs
from latent_store.codec import Codec, load_codec
from latent_store.components import creation
from latent_store.components.finalize import finalize
from latent_store.components.latents import latents_spec
from latent_store.components.writer import ShardWriter
from latent_store.console import Number, make_parser, run_command
from latent_store.errors import JobFailedError
from latent_store.format import layout
from latent_store.format.plan import ShardPlan, make_plan
from latent_store.format.plan_files import write_plan
from latent_store.format.samples import Sample
from latent_store.shards.receipts import Receipt, RowRecord, receipt_key
from latent_store.storage.location import Location
from pipelines import frequency, reorder
from pipelines.jobs.encoding import encode_latents
from tests.benchmarks.table import markdown
from tests.latent_store.made_store import made_picture

SIDE = 64
"""Of a picture in pixels: ŷ is 4 x 4."""
HEADER = ("shards", "samples", "opening (s)", "variance (ms a sample)", "reordering (ms a sample)")
DATASET, SPLIT = "made", "train"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.growth", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.growth", __doc__ or "")
    add = parser.add_argument
    sizes = Number(int, 2)
    add("--shards", type=sizes, nargs="+", default=[186, 930, 1860], help="sizes of stores")
    add("--rows_per_shard", type=Number(int, 1), default=4, help="rows in a shard")
    add("--reorder_up_to", type=sizes, default=1860, help="reorder only stores of so many shards")
    add("--repeats", type=Number(int, 1), default=2, help="runs of each; the quickest counts")
    add("--work", type=Path, help="folder for the stores (default: a temporary one)")
    return parser


def _run(flags: argparse.Namespace) -> int:
    codec = load_codec(demo=True)
    sizes = [1, *flags.shards]
    with contextlib.ExitStack() as stack:
        work = flags.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        urls = {shards: work / f"{shards}.zarr" for shards in sizes}
        for shards, url in urls.items():
            if not url.exists():
                make_store(url, codec, shards, flags.rows_per_shard)
        runs: dict[int, list[tuple[float, ...]]] = {shards: [] for shards in sizes}
        for _ in range(flags.repeats):  # One size after the other: a machine's load comes and goes.
            for shards, url in urls.items():
                runs[shards].append(_measure(url, reordered=shards <= flags.reorder_up_to))
                seconds = " ".join(f"{value:.2f}" for value in runs[shards][-1])
                print(f"{shards} shards: {seconds} s", file=sys.stderr)
    best = {shards: [min(parts) for parts in zip(*of, strict=True)] for shards, of in runs.items()}
    rows = []
    for shards in flags.shards:
        samples = shards * flags.rows_per_shard
        grown = [
            f"{1e3 * (seconds - once) / samples:.3f}"
            for seconds, once in zip(best[shards][1:], best[1][1:], strict=False)
        ]
        rows.append((f"{shards:,}", f"{samples:,}", f"{best[shards][0]:.2f}", *grown, "-")[:5])
    print(markdown(HEADER, rows))
    print(f"\nonce a run: variance {best[1][1]:.2f} s, reordering {best[1][2]:.2f} s")
    return 0


def _measure(url: Path, *, reordered: bool) -> tuple[float, ...]:
    """Returns the seconds of opening, of the ranking and, if that is measured, of the copy."""
    shared = ["--store", str(url), "--dataset", DATASET, "--split", SPLIT, "--ranking", "variance"]
    variance = [*shared, "--method", "variance", "--overwrite"]
    seconds = (
        _seconds(lambda: latent_store.open(url)[f"{DATASET}/{SPLIT}"].latents() and 0),
        _seconds(lambda: frequency.main(variance)),
    )
    if not reordered:
        return seconds
    return (*seconds, _seconds(lambda: reorder.main([*shared, "--overwrite"])))


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        status = work()
    if status:
        raise JobFailedError("the command that is measured failed")
    return time.process_time() - start


def make_store(url: Path, codec: Codec, shards: int, rows_per_shard: int) -> None:
    """Makes a store of so many shards of latents, all of one picture."""
    location = Location(url)
    creation.create_store(location)
    spec = codec.spec
    codecs.register_codec(location, spec, codec.tables.to_arrays(), codec.checkpoint_bytes)
    plan = make_plan(DATASET, SPLIT, _samples(shards * rows_per_shard), rows_per_shard)
    write_plan(location, plan)
    latents = latents_spec(spec, *plan.canvas, "int16")
    creation.create_component(location, plan, latents)
    encoded = encode_latents(codec, made_picture(0, SIDE, SIDE), measure_psnr=False)
    stats = {**encoded.stats, "image_sha256": "0" * 64}
    records = [[_record(*pair, stats) for pair in plan.in_shard(n)] for n in range(shards)]
    columns = {name: dict.fromkeys(plan.rows, value) for name, value in encoded.arrays.items()}
    streams = {name: dict.fromkeys(plan.rows, data) for name, data in encoded.streams.items()}
    first = {
        name: {row: values[row] for row, _ in plan.in_shard(0)}
        for name, values in (columns | streams).items()
    }
    receipt = ShardWriter(location, plan, latents).write(0, first, first, records[0])
    for shard in range(1, shards):
        _link_shard(location, plan, receipt, latents.ranks, shard, records[shard])
    finalize(location, plan.name, latents.key)


def _samples(count: int) -> list[Sample]:
    fields = {"label_uri": "", "height": SIDE, "width": SIDE, "image_bytes": 1000}
    return [
        Sample(sample_id=f"s{i:07d}", image_uri=f"pictures/{i:07d}.png", **fields)
        for i in range(count)
    ]


def _record(row: int, sample: Sample, stats: dict[str, object]) -> RowRecord:
    return RowRecord(row=row, sample_id=sample.sample_id, stats=stats)


def _link_shard(
    location: Location,
    plan: ShardPlan,
    first: Receipt,
    ranks: dict[str, int],
    shard: int,
    rows: Sequence[RowRecord],
) -> None:
    """Makes a shard of the first one's objects, and a receipt of it."""
    objects, absent = {}, []
    for name, rank in ranks.items():
        array = f"{plan.name}/{first.component}/{name}"
        source, target = (layout.object_key(array, n, rank) for n in (0, shard))
        if source not in first.objects:
            absent.append(target)
            continue
        objects[target] = first.objects[source]
        path = Path(location.path(target))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(location.path(source), path)
    receipt = dataclasses.replace(
        first, shard=shard, objects=objects, absent=tuple(absent), rows=tuple(rows)
    )
    pictures = plan.pictures_crc32c(receipt.usable)
    receipt = dataclasses.replace(receipt, pictures_crc32c=pictures)
    key = receipt_key(plan.name, first.component, shard)
    Path(location.path(key)).write_bytes(receipt.to_json())


if __name__ == "__main__":
    sys.exit(main())
