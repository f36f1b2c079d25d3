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
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import MOST_THREADS, Number, make_parser, run_command
from latent_store.errors import JobFailedError
from training.experiments.grid import load_grid
from training.experiments.records import RUNS
from training.experiments.results import find, write_report
from training.experiments.runner import Runner
from training.experiments.workspace import Workspace

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
    jobs = Number(int, 1, MOST_THREADS)
    add("--jobs", type=jobs, default=os.cpu_count() or 1, help="runs at a time")
    add("--minutes", type=Number(float), help="start no further run after so many minutes")
    add(
        "--max_steps",
        type=Number(int, 1),
        help="train so many steps only, to try a grid out; name --records",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--dry_run", action="store_true", help="say what is finished and what is not; run nothing")
    return parser


def _run(args: argparse.Namespace) -> int:
    grid = load_grid(args.grid)
    if args.max_steps is not None:
        grid = grid.shortened(args.max_steps)
    runner = Runner(
        Workspace(
            grid=grid,
            url=args.store,
            work=args.work / grid.name,
            records=args.records / grid.name,
            threads=max(1, (os.cpu_count() or 1) // args.jobs),
            device=args.device,
        )
    )
    wanted = list(grid.runs()) if args.only is None else grid.runs_with_needs(args.only)
    if args.dry_run:
        states = [("finished" if runner.finished(run) else "to run", run.name) for run in wanted]
        sys.stdout.write("".join(f"{state:<9} {name}\n" for state, name in states))
        return 0
    records = runner.run_all(wanted, jobs=args.jobs, minutes=args.minutes)
    if not records:
        raise JobFailedError(f"no run of {grid.name} was finished within --minutes {args.minutes}")
    made, timed = {record.name for record in records}, grid.timed_runs()
    timings = runner.timings() if timed and made.issuperset(r.name for r in timed) else None
    found = find(grid, records, timings)
    command = f"python -m training.experiments.rate_miou --store STORE --grid {args.grid}"
    output = args.output or args.work / f"{grid.name}-report"
    written = write_report(found, runner.rankings.recorded(), command, output)
    unfinished = len(wanted) - len(records)
    state = f"{unfinished} of them are still to run" if unfinished else "all are finished"
    sys.stdout.write(f"{grid.name}: {len(wanted)} runs, {state}\n")
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
