"""The start: what is loaded before a command does anything, by the processor's seconds.

    python -m tests.benchmarks.startup

Each runs in a process of its own, with one thread, in turns; medians.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median

from latent_store.console import Number, make_parser, progress, run_command
from tests.benchmarks.commands import MODULES, Spent, run_python
from tests.benchmarks.table import markdown

IMPORTS = {
    "import latent_store": "import latent_store",
    "import latent_store.torch": "import latent_store.torch",
    "a loader's worker": "import training.data.store_source",
    "a worker that encodes": "import pipelines.jobs.encoding",
    "import compressai, for comparison": "import warnings; warnings.simplefilter('ignore'); "
    "import compressai",
    "import torch, for comparison": "import torch",
}
HELP_AIM, WORKER_AIM = 1.0, 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.startup", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.startup", __doc__ or "")
    parser.add_argument("--rounds", type=Number(int, 1), default=3, help="runs of each")
    return parser


def _run(flags: argparse.Namespace) -> int:
    ways: dict[str, tuple[str, ...]] = {
        f"`{name} --help`": ("-m", module, "--help") for name, module in MODULES.items()
    }
    ways |= {name: ("-c", code) for name, code in IMPORTS.items()}
    found: dict[str, list[Spent]] = {name: [] for name in ways}
    for turn in progress(range(flags.rounds + 1), desc="start", unit="round"):
        for name, words in ways.items():
            spent = run_python(*words)
            if turn:  # the first one reads the files from disk
                found[name].append(spent)
    rows = []
    for name, of in found.items():
        aim = HELP_AIM if "--help" in name else WORKER_AIM if "worker" in name else None
        clock, cpu = (median(getattr(s, f) for s in of) for f in ("wall", "cpu"))
        rows.append((name, f"{clock:.2f}", f"{cpu:.2f}", "-" if aim is None else f"< {aim:g} s"))
    print(markdown(("what", "by the clock (s)", "of a core (s)", "aim"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
