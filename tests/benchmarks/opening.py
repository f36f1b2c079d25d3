"""What a program waits for before its first batch, and the memory of it, by the size of a store.

    python -m tests.benchmarks.opening --samples 1000 100000

Stores are those of `tests.benchmarks.growth`, 16 rows a shard. Each is opened by a process of its
own, which reads a first batch of 16, by the same `Dataset` that training scripts take; loading
torch comes before and is not counted, but is part of the memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from latent_store.codec import load_codec
from latent_store.console import Number, make_parser, run_command
from pipelines.jobs.job_flags import DEFAULT_SAMPLES_PER_SHARD
from tests.benchmarks.commands import run_python
from tests.benchmarks.growth import DATASET, SPLIT, make_store
from tests.benchmarks.table import markdown

BATCH = 16
HEADER = ("samples", "shards", "opening, first batch (s)", "of a core (s)", "peak (MiB)", "aim")
AIM = "≤ 1 s"
PROGRAM = """
import json, sys, time, torch
import latent_store
from latent_store.torch import Dataset
from tests.latent_store.memory import peak_bytes
start, core = time.perf_counter(), time.process_time()
url, split, batch = sys.argv[1:]
dataset = Dataset(latent_store.open(url)[split], ["y_hat"])
assert len(dataset.__getitems__([*range(int(batch))])) == int(batch)
print(json.dumps([time.perf_counter() - start, time.process_time() - core, peak_bytes()]))
"""
"""Loads nothing else, whose memory would be counted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.opening", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.opening", __doc__ or "")
    add = parser.add_argument
    sizes = [BATCH, 1_000, 100_000]
    add("--samples", type=Number(int, BATCH), nargs="+", default=sizes, help="sizes of stores")
    add("--repeats", type=Number(int, 1), default=3, help="processes; the quickest counts")
    return parser


def _run(flags: argparse.Namespace) -> int:
    codec, rows = load_codec(demo=True), []
    for samples in flags.samples:
        shards = -(-samples // DEFAULT_SAMPLES_PER_SHARD)
        with tempfile.TemporaryDirectory() as folder:
            url = Path(folder) / "s.zarr"
            make_store(url, codec, shards, DEFAULT_SAMPLES_PER_SHARD)
            call = ("-c", PROGRAM, str(url), f"{DATASET}/{SPLIT}", str(BATCH))
            runs = [json.loads(run_python(*call).text) for _ in range(flags.repeats)]
        wall, core, peak = (min(parts) for parts in zip(*runs, strict=True))
        told = (f"{wall:.2f}", f"{core:.2f}", f"{peak / 2**20:.0f}", AIM)
        rows.append((f"{shards * DEFAULT_SAMPLES_PER_SHARD:,}", f"{shards:,}", *told))
    print(markdown(HEADER, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
