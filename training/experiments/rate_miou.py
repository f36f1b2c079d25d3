"""`python -m training.experiments.rate_miou`: the paper's tables and figures, from a store.

    python -m training.experiments.rate_miou --store camvid.zarr --grid camvid_cpu

Runs every network that the grid declares and that has no record yet, several at a time, then
writes report.md, results.json and the figures from the records. Stop it at any time and run it
again; a fresh clone with the committed records goes on as well. What is missing from a report is
named in it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from latent_store.console import make_parser, progress, run_command
from latent_store.errors import JobFailedError, LatentStoreError
from training.experiments.grid import Grid, Run, load_grid
from training.experiments.records import RUNS, Record
from training.experiments.results import find, write_report
from training.experiments.runner import Place, Workshop
from training.experiments.timings import Timings

PROG = "rate_miou"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = make_flags().parse_args(argv)
    return run_command(PROG, lambda: _run(args))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser(PROG, __doc__ or "")
    add = parser.add_argument
    add("--store", required=True, metavar="URL", help="store with the grid's codecs and a teacher")
    add("--grid", required=True, help="camvid_cpu, camvid_gpu, or the path of a .toml file")
    add("--work", type=Path, default=Path("grid-work"), help="folder of checkpoints and logs")
    add("--records", type=Path, default=RUNS, help="folder of finished runs' records")
    add("--output", type=Path, help="folder of the report (default: WORK/GRID-report)")
    add("--only", nargs="+", metavar="METHOD", help="run only these methods and what they need")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    add("--minutes", type=float, help="start no further run after so many minutes")
    add("--max_steps", type=int, help="train so many steps only, to try a grid out; name --records")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--dry_run", action="store_true", help="say what is finished and what is not; run nothing")
    return parser


def run_grid(
    workshop: Workshop, wanted: Sequence[Run], *, jobs: int, minutes: float | None = None
) -> list[Record]:
    """Makes every wanted run that has no record, each when what it needs is finished.

    Args:
        workshop: Makes them.
        wanted: In the order in which they are to start where they can.
        jobs: Runs at a time.
        minutes: No run starts after so long.

    Returns:
        The records of all wanted runs that are finished now.

    Raises:
        JobFailedError: A run failed; those under way were finished and recorded first.
    """
    done = {run.name: record for run in wanted if (record := workshop.finished(run))}
    waiting = [run for run in wanted if run.name not in done]
    end = None if minutes is None else time.monotonic() + 60 * minutes
    active: dict[Future[Record], Run] = {}
    failed: BaseException | None = None
    with (
        progress(total=len(wanted), initial=len(done), unit="run", desc=workshop.grid.name) as bar,
        ThreadPoolExecutor(max_workers=jobs) as pool,
    ):
        while active or (waiting and failed is None):
            late = end is not None and time.monotonic() > end
            for run in [] if late or failed else _ready(workshop, waiting, set(done)):
                if len(active) < jobs:
                    waiting.remove(run)
                    active[pool.submit(workshop.make, run)] = run
            if not active:
                break
            finished, _ = wait(active, return_when=FIRST_COMPLETED)
            for future in finished:
                run = active.pop(future)
                if error := future.exception():
                    failed = failed or error
                    continue
                done[run.name] = future.result()
                bar.update()
                bar.set_postfix_str(run.name)
    if failed is not None:
        raise failed
    return [done[run.name] for run in wanted if run.name in done]


def with_needs(grid: Grid, methods: Sequence[str] | None) -> list[Run]:
    """Returns the runs of some methods and of the methods that they need; None for all.

    Raises:
        LatentStoreError: The grid has no such method.
    """
    runs = {run.name: run for run in grid.runs()}
    if methods is None:
        return list(runs.values())
    if unknown := [name for name in methods if name not in grid.methods]:
        raise LatentStoreError(
            f"the grid {grid.name} has no method {unknown[0]}; it has {list(grid.methods)}"
        )
    chosen: set[str] = set()
    pending = [name for name, run in runs.items() if run.method.name in methods]
    while pending:
        name = pending.pop()
        if name not in chosen:
            chosen.add(name)
            pending += grid.needs(runs[name])
    return [run for name, run in runs.items() if name in chosen]


def _ready(workshop: Workshop, waiting: Sequence[Run], done: set[str]) -> list[Run]:
    """Returns the runs that can start; those that others wait for first."""
    grid = workshop.grid
    needed = {name for run in waiting for name in grid.needs(run)}
    ready = [run for run in waiting if done.issuperset(grid.needs(run))]
    return sorted(ready, key=lambda run: run.name not in needed)


def _run(args: argparse.Namespace) -> int:
    if args.jobs < 1:
        raise LatentStoreError(f"--jobs must be at least 1, got {args.jobs}")
    grid = load_grid(args.grid)
    if args.max_steps is not None:
        grid = grid.shortened(args.max_steps)
    place = Place(
        store=args.store,
        work=args.work / grid.name,
        records=args.records / grid.name,
        threads=max(1, (os.cpu_count() or 1) // args.jobs),
        device=args.device,
    )
    workshop = Workshop(grid, place)
    wanted = with_needs(grid, args.only)
    if args.dry_run:
        for run in wanted:
            sys.stdout.write(
                f"{'finished' if workshop.finished(run) else 'to run':<9} {run.name}\n"
            )
        return 0
    records = run_grid(workshop, wanted, jobs=args.jobs, minutes=args.minutes)
    if not records:
        raise JobFailedError(f"no run of {grid.name} was finished within --minutes {args.minutes}")
    return _report(args, workshop, wanted, records, _timings(workshop, records))


def _timings(workshop: Workshop, records: Sequence[Record]) -> Timings | None:
    """Returns the latencies of the timed networks; measured once all of them are finished."""
    timed = {run.name for run in workshop.grid.timed_runs()}
    if not timed or not timed <= {record.name for record in records}:
        return None
    return workshop.timings() or workshop.measure_timings()


def _report(
    args: argparse.Namespace,
    workshop: Workshop,
    wanted: Sequence[Run],
    records: Sequence[Record],
    timings: Timings | None,
) -> int:
    grid, output = workshop.grid, args.output or args.work / f"{workshop.grid.name}-report"
    command = f"python -m training.experiments.rate_miou --store STORE --grid {args.grid}"
    found = find(grid, records, timings)
    written = write_report(found, workshop.rankings(), command, output)
    unfinished = len(wanted) - len(records)
    state = f"{unfinished} of them are still to run" if unfinished else "all are finished"
    sys.stdout.write(f"{grid.name}: {len(wanted)} runs, {state}\n")
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
