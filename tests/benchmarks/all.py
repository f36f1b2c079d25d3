"""All benchmarks that a processor can run, in one table.

    python -m tests.benchmarks.all

Runs one after the other, each in a process of its own, and rewrites the table after each. Leave
the machine alone meanwhile: it takes some half an hour of two cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import make_parser, progress, run_command
from latent_store.errors import JobFailedError
from tests.benchmarks.environment import conditions

TABLE = Path(__file__).with_name("TABLE.md")
PACKAGES = ("torch", "torchvision", "compressai", "numpy", "zarr", "pyarrow", "apache-beam")
BENCHMARKS = {
    "Start": "startup",
    "Encoding": "encoding --repeats 5",
    "Reading": "reading",
    "Opening": "opening",
    "Growth": "growth --shards 186 1860 --rows_per_shard 8 --reorder_up_to 2",
    "Planning": "planning --rows 100000",
    "Requests": "requests",
    "Inference": "inference",
    "Training": "training",
    "Damage": "damage --trials 300",
    "Faults": "faults --trials 12",
    "Scaling": "scaling",
}
"""Title -> module below `tests.benchmarks` and flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmarks."""
    return run_command("benchmarks.all", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.all", __doc__ or "")
    parser.add_argument(
        "--only", nargs="+", choices=list(BENCHMARKS), metavar="TITLE",
        help=f"of {', '.join(BENCHMARKS)}; the table's other sections stay",
    )  # fmt: skip
    parser.add_argument("--table", type=Path, default=TABLE, help="file to rewrite")
    return parser


def _run(flags: argparse.Namespace) -> int:
    sections = _sections(flags.table)
    chosen = flags.only or list(BENCHMARKS)
    failures = []
    for title in progress(chosen, desc="benchmarks", unit="benchmark"):
        try:
            sections[title] = _section(BENCHMARKS[title])
        except JobFailedError as error:
            failures.append(str(error))
            continue
        parts = [f"## {name}\n\n{sections[name]}" for name in BENCHMARKS if name in sections]
        flags.table.write_text("\n\n".join([_head(), *parts]) + "\n")
    print(flags.table)
    if failures:
        raise JobFailedError("; ".join(failures))
    return 0


def _head() -> str:
    return (
        "# Benchmarks\n\n`python -m tests.benchmarks.all` writes this page. Rows are ratios of one "
        "run on one machine;\nwhat missed its aim, and why, is told in "
        "[MEASUREMENTS.md](../../latent_store/MEASUREMENTS.md)."
    )


def _sections(table: Path) -> dict[str, str]:
    """Returns the sections that a table has, by title."""
    if not table.exists():
        return {}
    parts = table.read_text().split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def _section(words: str) -> str:
    """Runs a benchmark; returns its command, circumstances and tables.

    Raises:
        JobFailedError: It ended with another status than 0.
    """
    start, before = time.perf_counter(), conditions(PACKAGES)
    module, *flags = words.split()
    call = ["-m", f"tests.benchmarks.{module}", *flags]
    done = subprocess.run(
        [sys.executable, *call], stdout=subprocess.PIPE, text=True, check=False, env=os.environ
    )
    if done.returncode:
        raise JobFailedError(f"python {shlex.join(call)} ended with status {done.returncode}")
    took = time.perf_counter() - start
    told, found = f"`python {shlex.join(call)}`, {took:.0f} s. {before}.", done.stdout.strip("\n")
    if "|" not in found:
        found = f"```text\n{found}\n```"
    return f"{told}\n\n{found}"


if __name__ == "__main__":
    sys.exit(main())
