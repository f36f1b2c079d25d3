"""Disturbs an encode in many seeded ways, and runs it again once: nothing may be lost or doubled.

    python -m tests.benchmarks.faults --trials 200

Each trial runs `encode-to-store` on a few small pictures, with the demo codec, and disturbs it as
its kind says: workers, children and the launcher are killed, the launcher is stopped until its
lease is stale, the object store goes away, the disk is full, ... Then the same command runs once
more, undisturbed, and every file is compared with those of a store that nothing befell.
Missing or different ones, or a command that fails, are lost; those that should not be there are
doubled; a command without an end is a hang. A first command that says it is done has to be right,
too. Prints a table by kind, and what was amiss; exits 1 if anything was. `--only KIND --seed S
--trials 1` runs one of them again.

A lease lasts 90 s; here it is shorter by `--scale`, and outages of 25 s and 120 s with it; what
clients of object stores wait between their own tries is not. The object store is moto, in this
process. A disk that is full is a tmpfs where mounts are allowed, else RLIMIT_FSIZE; a clock that is
off is libfaketime's where that is installed, else Python's.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latent_store.console import Number, make_parser, progress, run_command
from latent_store.errors import LatentStoreError
from tests.benchmarks import fault_server
from tests.benchmarks.fault_kinds import KINDS
from tests.benchmarks.fault_runs import FAKE_CLOCK, Ground, HangError, Trial
from tests.benchmarks.table import markdown

HEADER = ("kind", "trials", "lost", "doubled", "hangs", "went on by itself", "seconds a trial")
MOST_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a trial.

    Attributes:
        told: What was done, in a few words.
        lost: What is missing, differs, or failed.
        doubled: What is there and should not be.
        hang: The command that did not end; "" without one.
        finished: Whether the disturbed command ended well.
    """

    seed: int
    kind: str
    told: str = ""
    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    hang: str = ""
    finished: bool = False
    seconds: float = 0.0

    @property
    def defects(self) -> tuple[str, ...]:
        """The first of what is amiss."""
        hang = (self.hang,) if self.hang else ()
        return (*self.lost[:5], *self.doubled[:5], *hang)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the trials; see the module's docstring."""
    return run_command("benchmarks.faults", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.faults", __doc__ or "")
    add = parser.add_argument
    add("--trials", type=Number(int, 1), default=200, help="of all kinds together")
    add("--seed", type=Number(int), default=0, help="of the first trial")
    add("--only", nargs="+", choices=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    add("--timeout", type=Number(float, 1), default=240, help="seconds, after which it is a hang")
    scale = "by how much a lease and outages are shorter (1: 90 s, 25 s and 120 s)"
    add("--scale", type=Number(float, 1), default=15, help=scale)
    add("--work", type=Path, help="folder for the stores (default: a temporary one)")
    return parser


def _run(flags: argparse.Namespace) -> int:
    kinds = list(flags.only or KINDS)
    for name in ("distributed", "werkzeug"):
        # They tell of every request, and at length of workers that were killed.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        root = flags.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.mkdir(parents=True, exist_ok=True)
        store, lacking = None, fault_server.missing()
        if all(KINDS[kind].away is False for kind in kinds):
            pass
        elif lacking:
            print(f"no object store: {' and '.join(lacking)} not installed", file=sys.stderr)
            kinds = [kind for kind in kinds if not KINDS[kind].away]
        else:
            store = stack.enter_context(fault_server.serving())
        if not kinds:
            raise LatentStoreError("nothing can be tried here: pip install 'latent-store[test]'")
        ground = Ground(root=root, store=store, timeout=flags.timeout, scale=flags.scale)
        files = len(ground.calm)
        told = f"an undisturbed store has {files} files; clocks: {FAKE_CLOCK or 'time.time'}"
        print(told, file=sys.stderr)
        results = []
        with progress(total=flags.trials, desc="faults", unit="trial") as bar:
            for seed in range(flags.seed, flags.seed + flags.trials):
                results.append(run_trial(ground, kinds[seed % len(kinds)], seed))
                _tell(results[-1])
                bar.update()
    return report(results)


def _tell(result: Result) -> None:
    verdict = "AMISS" if result.defects else "right"
    line = f"{result.kind} {result.seed}: {result.told}; {verdict}, {result.seconds:.0f} s"
    print(line, *result.defects, sep="\n  ", file=sys.stderr, flush=True)


def run_trial(ground: Ground, kind: str, seed: int) -> Result:
    """Runs one trial; the same seed draws the same."""
    rng, start = random.Random(f"{kind} {seed}"), time.monotonic()
    with _folder(ground.root / f"{kind}-{seed}") as folder:
        trial = Trial(ground=ground, rng=rng, folder=folder)
        if ground.store is not None:
            ground.store.reset(seed)
        told, lost, doubled, hang = "", [], [], ""
        try:
            told = KINDS[kind].disturb(trial)
            if not any(trial.statuses):
                lost, doubled = _compare(trial, "which said it was done, ")
            elif trial.away:
                trial.let_lease_go_stale()
            run = trial.start()
            status = run.wait()
            if status:
                lost.append(f"the same command again: status {status}, {run.last_line}")
            again = _compare(trial, "")
            lost, doubled = lost + again[0], doubled + again[1]
        except HangError as error:
            hang = str(error)
    return Result(
        seed=seed,
        kind=kind,
        told=told,
        lost=tuple(lost),
        doubled=tuple(doubled),
        hang=hang,
        finished=bool(trial.statuses) and trial.statuses[-1] == 0,
        seconds=time.monotonic() - start,
    )


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Makes a folder of a trial, and removes it and what was mounted there."""
    path.mkdir()
    try:
        yield path
    finally:
        while path.is_mount():
            subprocess.run(["umount", "--lazy", str(path)], check=True)
        shutil.rmtree(path)


def _compare(trial: Trial, after: str) -> tuple[list[str], list[str]]:
    calm, found = trial.ground.calm, trial.contents()
    lost = [f"{after}{key} is missing" for key in calm.keys() - found.keys()]
    both = calm.keys() & found.keys()
    lost += [f"{after}{key} differs" for key in sorted(both) if calm[key] != found[key]]
    return lost, [f"{after}{key} is there" for key in found.keys() - calm.keys()]


def report(results: Sequence[Result]) -> int:
    """Prints what came of the trials; returns the exit status."""
    by_kind = defaultdict(list)
    for result in results:
        by_kind[result.kind].append(result)
    rows = [_row(kind, of) for kind, of in by_kind.items()]
    total = _row("all", results)
    print(markdown(HEADER, [*rows, total]))
    bad = [result for result in results if result.defects]
    for result in bad[:MOST_SHOWN]:
        what = f"\n{result.kind}, seed {result.seed}: {result.told}"
        print(what, *result.defects, sep="\n  ")
    verdict = "holds" if not bad else "DOES NOT HOLD"
    told = f"{total[2]} lost, {total[3]} doubled, {total[4]} hangs of {len(results)} trials"
    print(f"\n{told} (aim 0, 0, 0): {verdict}")
    return 1 if bad else 0


def _row(kind: str, results: Sequence[Result]) -> tuple[str, ...]:
    counts = (
        len(results),
        sum(bool(result.lost) for result in results),
        sum(bool(result.doubled) for result in results),
        sum(bool(result.hang) for result in results),
        sum(result.finished for result in results),
    )
    mean = sum(result.seconds for result in results) / len(results)
    return (kind, *map(str, counts), f"{mean:.1f}")


if __name__ == "__main__":
    sys.exit(main())
