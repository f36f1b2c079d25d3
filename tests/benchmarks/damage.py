"""Damages a store in thousands of seeded ways and counts what goes unnoticed: nothing may.

    python -m tests.benchmarks.damage --trials 10000

Trials run in processes of their own, so that one in which the interpreter dies is counted and the
next one goes on. Prints a table of outcomes by kind of object and by damage, and every trial that
was silent or crashed; exits 1 if there is one. `--seed S --trials 1` runs one of them again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from latent_store.codec.families.registry import DEFAULT_ARCHITECTURE
from latent_store.console import progress
from tests.benchmarks.bench import Bench, Line
from tests.latent_store.damage import ALLOWED, CRASH, DETECTED, HARMLESS, SILENT, Ground, Outcome
from tests.latent_store.made_store import make_store

MOST_SHOWN = 50
PROCESSES = 2
RESULTS = (DETECTED, HARMLESS, SILENT, CRASH)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the trials; see the module's docstring."""
    flags = make_flags().parse_args(argv)
    if flags.worker is not None:
        return _work(flags.worker, flags.seed, flags.trials)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        seeds = range(flags.seed, flags.seed + flags.trials)
        with progress(total=flags.trials, desc="damage", unit="trial") as bar:
            outcomes = []
            for outcome in run_trials(root, seeds, flags.processes):
                outcomes.append(outcome)
                bar.update()
    print(table(outcomes))
    bad = [outcome for outcome in outcomes if outcome.result not in ALLOWED]
    for outcome in sorted(bad, key=lambda o: o.seed)[:MOST_SHOWN]:
        print(json.dumps(dataclasses.asdict(outcome)))
    return 1 if bad else 0


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser


def measure(bench: Bench) -> list[Line]:
    """Damages a made store of every kind of component; how the pictures look is of no matter."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        trials = run_trials(Path(folder), range(bench.trials), PROCESSES)
        found = Counter(o.result for o in progress(trials, desc="damage", total=bench.trials))
    counts = ", ".join(f"{found[result]} {result}" for result in RESULTS)
    return [
        Line(
            what="random damage to objects, receipts, indexes, metadata and stream files",
            promised="0 silent, 0 crashes",
            measured=f"{counts} of {bench.trials} trials",
            holds=not found[SILENT] and not found[CRASH],
        )
    ]


def prepare(root: Path, architecture: str = DEFAULT_ARCHITECTURE) -> None:
    """Makes the store and its past below `root`."""
    (root / "whole").mkdir()
    make_store(root / "whole", root / "past.zarr", architecture=architecture)


def run_trials(root: Path, seeds: range, processes: int = 1) -> Iterator[Outcome]:
    """Runs the trials of `seeds` in so many processes, on a store that `prepare` made."""
    cuts = [len(seeds) * i // processes for i in range(processes + 1)]
    parts = [seeds[start:stop] for start, stop in itertools.pairwise(cuts)]
    with ThreadPoolExecutor(processes) as pool:
        for part in pool.map(lambda part: list(_supervised(root, part)), parts):
            yield from part


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns counts of results by kind of object and by damage, as text."""
    lines = [f"{'':<16}" + "".join(f"{result:>10}" for result in RESULTS)]
    for group in ("kind", "damage"):
        found = Counter((getattr(o, group), o.result) for o in outcomes)
        names = sorted({name for name, _ in found})
        lines += [f"{n:<16}" + "".join(f"{found[n, r]:>10}" for r in RESULTS) for n in names]
        lines.append("")
    total = Counter(o.result for o in outcomes)
    return "\n".join([*lines, f"{'all':<16}" + "".join(f"{total[r]:>10}" for r in RESULTS)])


def _supervised(root: Path, seeds: range) -> Iterator[Outcome]:
    """Runs trials in one process after another: the next one starts where one died."""
    first = seeds.start
    while first < seeds.stop:
        command = [sys.executable, "-m", "tests.benchmarks.damage", "--worker", str(root)]
        command += ["--seed", str(first), "--trials", str(seeds.stop - first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                outcome = Outcome(**json.loads(line))
                first = outcome.seed + 1
                yield outcome
        if process.returncode:
            what = f"the interpreter ended with {process.returncode}"
            yield Outcome(seed=first, kind="?", damage="?", key="?", result=CRASH, what=what)
            first += 1


def _work(root: Path, seed: int, trials: int) -> int:
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        ground = Ground(root / "whole", root / "past.zarr", Path(scratch))
        for current in range(seed, seed + trials):
            print(json.dumps(dataclasses.asdict(ground.run(current))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
