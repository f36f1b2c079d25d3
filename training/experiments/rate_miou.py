"""`python -m training.experiments.rate_miou`: the paper's tables and figures, from a store.

    python -m training.experiments.rate_miou --store city256.zarr --grid city256
    python -m training.experiments.rate_miou --grid city256

The first runs every network that the grid declares and that has no record yet, several at a time;
both write report.md, results.json and the figures from the records. Stop it at any time and run it
again; a fresh clone with the committed records goes on as well. What is missing from a report is
named in it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import (
    MOST_THREADS,
    Number,
    add_storage_flag,
    make_parser,
    run_command,
)
from latent_store.errors import JobFailedError
from training.experiments.configs import grid_config
from training.experiments.findings import find
from training.experiments.grid import Grid, GridRun
from training.experiments.grid_file import load_grid
from training.experiments.records import RUNS, Record, read_rankings, read_record, read_timings
from training.experiments.results import write_report
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
    add(
        "--store",
        metavar="URL",
        help="store with the grid's codecs and a teacher; without it nothing is run, and the "
        "report is of the records that there are",
    )
    add_storage_flag(parser)
    add("--grid", required=True, help="city256, voc_animals, camvid_cpu, or a .toml file's path")
    add("--work", type=Path, default=Path("grid-work"), help="folder of checkpoints and logs")
    add("--records", type=Path, default=RUNS, help="folder of finished runs' records")
    add("--output", type=Path, help="folder of the report (default: WORK/GRID-report)")
    add("--only", nargs="+", metavar="METHOD", help="only these methods and what they need")
    add("--codecs", nargs="+", metavar="Q", help="only these codecs, by the grid's names")
    add("--seeds", nargs="+", type=Number(int), metavar="SEED", help="only networks of these seeds")
    jobs = Number(int, 1, MOST_THREADS)
    add("--jobs", type=jobs, default=os.cpu_count() or 1, help="runs at a time")
    add("--minutes", type=Number(float), help="after so many minutes runs save and end")
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
    wanted, folder = grid.runs(args.only, args.codecs, args.seeds), args.records / grid.name
    runner = None
    if args.store is not None:
        threads = max(1, (os.cpu_count() or 1) // args.jobs)
        where = {"url": args.store, "work": args.work / grid.name, "records": folder}
        runner = Runner(Workspace(grid=grid, threads=threads, device=args.device, **where))

    def finished(run: GridRun) -> Record | None:
        if runner is not None:
            return runner.finished(run)
        return read_record(folder, run.name, grid_config(grid, run))

    if args.dry_run:
        left = [run for run in wanted if finished(run) is None]
        for run in wanted:
            sys.stdout.write(f"{'to run' if run in left else 'finished':<9} {run.name}\n")
        sys.stdout.write(f"{grid.steps(left)} steps to run\n")
        return 0
    if runner is not None:
        records = runner.run_all(wanted, jobs=args.jobs, minutes=args.minutes)
    else:
        records = [record for run in wanted if (record := finished(run))]
    if not records:
        raise JobFailedError(
            f"{folder} has the record of no run that is asked for: name another folder with "
            "--records, or give --store to run them"
        )
    unfinished = len(wanted) - len(records)
    written = _write_reports(args, grid, records, None if unfinished else runner)
    state = f"{unfinished} of them are still to run" if unfinished else "all are finished"
    sys.stdout.write(f"{grid.name}: {len(wanted)} runs, {state}\n")
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


def _write_reports(
    args: argparse.Namespace, grid: Grid, records: list[Record], runner: Runner | None
) -> list[Path]:
    """Writes a report; where a grid has several tasks, one each below it."""
    made, timed = {record.name for record in records}, grid.timed_runs()
    timings = read_timings(args.records / grid.name, {})
    if runner is not None and timed and made.issuperset(run.name for run in timed):
        timings = runner.timings()
    rankings = read_rankings(args.records / grid.name)
    output = args.output or args.work / f"{grid.name}-report"
    command = f"python -m training.experiments.rate_miou --grid {args.grid}"
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.points[0].task, []).append(record)
    written: list[Path] = []
    for task, own in by_task.items():
        part = grid.of_task(task)
        found = find(part, own, timings if part.timed else None)
        folder = output / task if len(by_task) > 1 else output
        written += write_report(found, rankings, command, folder)
    return written


if __name__ == "__main__":
    sys.exit(main())
