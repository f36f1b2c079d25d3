"""Holds a store to its promises on real images, and prints what was measured.

    python -m tests.benchmarks.store
    python -m tests.benchmarks.store --data_root D --codecs q1.pth.tar q2.pth.tar --work W

Without flags it takes real pictures and codecs from a folder `shared` beside the checkout, if
there is one, else scenes that it generates and the demo codec. Images, rankings and copies that the
store lacks are made first, with the project's own commands; run it again after an interruption and
it goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from latent_store.codec.checkpoints import DEMO_FOLDER
from latent_store.console import make_parser, run_command
from latent_store.errors import LatentStoreError
from latent_store.storage.local_files import write_atomically
from latent_store.storage.location import Location
from latent_store.store import LatentStore
from pipelines.scenes.cityscapes_scenes import CityscapesScenes
from tests.benchmarks import (
    bench,
    compressors,
    damage,
    disk,
    fill,
    ledger,
    prefixes,
    readers,
    scale_indexes,
    stock_codec,
)
from tests.benchmarks.bench import Bench, Line
from tests.benchmarks.table import markdown

SHARED = Path(__file__).parents[3] / "shared"
"""Beside the checkout, where it is present: real pictures and codecs, not the project's own."""
SCENES = CityscapesScenes(train=0, val=32, height=256, width=384, seed=0)

ROWS: dict[str, Callable[[Bench], list[Line]]] = {
    "ledger": ledger.measure,
    "prefix": prefixes.measure,
    "stock": stock_codec.measure,
    "indexes": scale_indexes.measure,
    "damage": damage.measure,
    "readers": readers.measure,
    "disk": disk.measure,
}
COMPRESSORS = "compressors"
"""A table of its own, of which nothing is promised."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 if a promise does not hold."""
    return run_command("benchmarks.store", lambda: _run(argv))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.store", __doc__ or "")
    add = parser.add_argument
    add("--data_root", type=Path, help="data root in Cityscapes' layout")
    add("--codecs", type=Path, nargs="+", help="checkpoint files of codecs")
    add("--images", type=int, default=200, help="images of each codec, of val first, then of train")
    add("--work", type=Path, default=Path("benchmark-store"), help="folder for what is made")
    add("--store", help="URL of a store to measure and complete (default: one in --work)")
    add("--ranking", default="entropy", help="ranking to measure; made by entropy if it is missing")
    add("--rows", default=",".join([*ROWS, COMPRESSORS]), help="rows to measure, with commas")
    add("--trial_images", type=int, default=16, help="images of each codec for the compressors")
    add("--trials", type=int, default=10_000, help="trials of damage")
    add("--output", type=Path, help="file for the tables as well")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    flags = make_flags().parse_args(argv)
    names = flags.rows.split(",")
    unknown = [name for name in names if name not in {*ROWS, COMPRESSORS}]
    if unknown or flags.images < 1:
        raise LatentStoreError(
            f"--rows has {', '.join(unknown) or 'no unknown row'}, --images is {flags.images}; "
            f"rows are {', '.join([*ROWS, COMPRESSORS])}, and there is at least one image"
        )
    flags.work.mkdir(parents=True, exist_ok=True)
    flags.data_root = flags.data_root or _data_root(flags.work)
    flags.codecs = flags.codecs or _codecs()
    location = Location(flags.store or flags.work / "store.zarr")
    splits = fill.wanted_splits(flags.data_root, flags.images)
    codec_ids = fill.fill(location, flags.codecs, splits, flags)
    measured = Bench(
        store=LatentStore(location),
        data_root=flags.data_root,
        codec_ids=codec_ids,
        splits=splits,
        ranking_id=flags.ranking,
        trials=flags.trials,
    )
    lines = [line for name in names if name in ROWS for line in ROWS[name](measured)]
    tables = [markdown(bench.HEADER, [line.cells() for line in lines])] if lines else []
    if COMPRESSORS in names:
        with tempfile.TemporaryDirectory(dir=flags.work) as folder:
            costs = compressors.measure_trials(measured, Path(folder), flags.trial_images)
        tables.append(markdown(compressors.HEADER, [cost.cells() for cost in costs]))
    text = "\n\n".join(tables) + "\n"
    sys.stdout.write(text)
    if flags.output:
        write_atomically(flags.output, text.encode())
    return int(any(line.holds is False for line in lines))


def _data_root(work: Path) -> Path:
    real = SHARED / "data/camvid_cityscapes_layout"
    if real.is_dir():
        return real
    made = work / "scenes"
    if not made.exists():
        SCENES.generate(made)
    return made


def _codecs() -> list[Path]:
    return sorted((SHARED / "codecs").glob("*.pth.tar")) or sorted(DEMO_FOLDER.glob("*.pth.tar"))


if __name__ == "__main__":
    sys.exit(main())
