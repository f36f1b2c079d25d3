"""Reading: milliseconds a sample of our loader and of what else users would take, in one run.

    python -m tests.benchmarks.reading

Makes pictures of 1024 x 2048 with the statistics of real ones, writes them in every format, and
reads shuffled batches of 8 with two workers, warm; and cold from a server 20 ms and 200 MB/s away.
Formats take turns, so that whatever else the machine does meets all alike; times are medians.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from latent_store.console import Number, make_parser, progress, run_command
from tests.benchmarks.reading_data import CODEC, RANKING, Pictures, write_ours
from tests.benchmarks.reading_peers import (
    AFAR,
    BATCH,
    CROPS,
    FULL,
    PEERS,
    RANKED,
    Peer,
    What,
    is_there,
)
from tests.benchmarks.reading_streams import STREAMS
from tests.benchmarks.slow_server import count_requests, serving
from tests.benchmarks.table import markdown
from tests.latent_store.made_latents import SPLIT
from training.data.loader import CropLoader, LoaderConfig
from training.data.store_source import SourceSpec, StoredChannels, StoreSource
from training.tasks.annotations import PixelLabels

TASKS = (FULL, RANKED, CROPS)
EVERY = (*PEERS, *STREAMS)
OURS = "ours, threads"
Open = Callable[[What], Iterator[Any]]
"""Gives batches for ever."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.reading", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.reading", __doc__ or "")
    add = parser.add_argument
    add("--samples", type=Number(int, BATCH), default=96, help="pictures, rounded to whole batches")
    add("--rounds", type=Number(int, 1), default=5, help="times that each is measured")
    add("--workers", type=Number(int, 1), default=2, help="workers of each")
    add("--work", type=Path, help="folder for what is made (default: removed afterwards)")
    return parser


def _run(flags: argparse.Namespace) -> int:
    count = flags.samples - flags.samples % BATCH
    with tempfile.TemporaryDirectory(dir=flags.work) as folder:
        root = Path(folder)
        peers = [peer for peer in EVERY if is_there(peer)]
        sizes = _write(root, peers, Pictures(count))
        near = _measure_near(root, peers, count, flags)
        afar = _measure_afar(root, peers, count, flags)
    names = list(near)
    header = ["", "KiB a sample", *(what.name for what in TASKS), "full, 20 ms away", "requests"]
    rows = [[name, sizes[name], *near[name], *afar.get(name, ("", ""))] for name in names]
    missing = [peer.name for peer in EVERY if peer not in peers]
    sys.stdout.write(_conditions(count, flags) + "\n\n" + markdown(header, rows) + "\n")
    if missing:
        sys.stdout.write(f"\nNot installed: {', '.join(missing)}.\n")
    return 0


def _conditions(count: int, flags: argparse.Namespace) -> str:
    packages = ("torch", "numpy", "zarr", "zstandard", "tensorstore")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {versions}; {count} samples, {flags.workers} workers, "
        f"medians of {flags.rounds}; ms a sample, and that over ours"
    )


def _write(root: Path, peers: Sequence[type[Peer]], pictures: Pictures) -> dict[str, str]:
    """Writes every format; returns KiB a sample by name."""
    write_ours(root / "ours.zarr", pictures)
    objects = [path for name in ("y_hat", "segmentation") for path in root.rglob(f"{name}/c")]
    ours = sum(_bytes(path) for path in objects if "ranked" not in path.parts)
    sizes = {}
    for peer in progress(peers, desc="write", unit="format"):
        folder = root / peer.__name__
        folder.mkdir()
        peer(folder, pictures.count).write(pictures)
        sizes[peer.name] = _bytes(folder) or ours
    every = dict.fromkeys([OURS, "ours, one thread", "ours, processes", "ours, in memory"], ours)
    return {name: f"{size / pictures.count / 1024:,.0f}" for name, size in (every | sizes).items()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _ours(url: str, workers: int, kind: str = "thread", cache_mb: int = 0) -> Open:
    def batches(what: What) -> Iterator[Any]:
        stored = StoredChannels(ranking_id=RANKING, keep=what.keep)
        spec = SourceSpec(
            url=url,
            split=SPLIT,
            annotations=PixelLabels(),
            domain="latent",
            codec_id=CODEC,
            stored=stored,
            cache_mb=cache_mb,
        )
        config = LoaderConfig(
            batch_size=BATCH,
            crop=what.crop,
            workers=workers,
            worker_kind=kind,
            cache_mb=cache_mb,
        )
        with closing(CropLoader(StoreSource(spec), config, seed=0)) as loader:
            while True:
                yield from loader

    return batches


def _measure_near(
    root: Path, peers: Sequence[type[Peer]], count: int, flags: argparse.Namespace
) -> dict[str, list[str]]:
    """Returns a cell for each task, by name of what is measured."""
    url = str(root / "ours.zarr")
    everything: dict[str, Open] = {
        OURS: _ours(url, flags.workers),
        "ours, one thread": _ours(url, 1),
        "ours, processes": _ours(url, flags.workers, "process"),
        "ours, in memory": _ours(url, flags.workers, cache_mb=1 << 20),
    }
    for peer in peers:
        everything[peer.name] = lambda what, peer=peer: peer(
            root / peer.__name__, count, what
        ).batches(flags.workers)
    cells: dict[str, list[str]] = {name: [] for name in everything}
    for what in TASKS:
        times = _take_turns({n: make(what) for n, make in everything.items()}, count, flags.rounds)
        for name, found in times.items():
            cells[name].append(f"{found:.2f} ({found / times[OURS]:.2f} ×)")
    return cells


def _take_turns(streams: dict[str, Iterator[Any]], count: int, rounds: int) -> dict[str, float]:
    """Returns ms a sample of each; the first epoch of each is not measured."""
    times: dict[str, list[float]] = {name: [] for name in streams}
    for turn in progress(range(rounds + 1), desc="read", unit="round"):
        for name, stream in streams.items():
            # What lies ready from the turn before is no part of this one.
            for _ in itertools.islice(stream, 2 * count // BATCH if turn == 0 else _AHEAD):
                pass
            start = time.perf_counter()
            for _ in itertools.islice(stream, _MEASURED):
                pass
            times[name].append((time.perf_counter() - start) * 1e3 / (_MEASURED * BATCH))
    for stream in streams.values():
        stream.close()
    return {name: median(found[1:]) for name, found in times.items()}


_AHEAD, _MEASURED = 16, 24
"""Batches that workers have ready while others are measured, and those that are measured then:
whole loads of ours, as many of each worker."""


def _measure_afar(
    root: Path, peers: Sequence[type[Peer]], count: int, flags: argparse.Namespace
) -> dict[str, tuple[str, str]]:
    """Returns ms and requests a sample of a first epoch, by name."""
    found: dict[str, tuple[str, str]] = {}
    with serving(root) as address:
        streams: dict[str, Iterator[Any]] = {
            OURS: _ours(f"{address}/ours.zarr", flags.workers)(FULL),
        }
        for peer in peers:
            if peer in AFAR:
                streams[peer.name] = AFAR[peer](f"{address}/{peer.__name__}", count).batches(
                    flags.workers
                )
        times = {}
        for name, stream in streams.items():
            count_requests(address)
            start = time.perf_counter()
            next(stream)
            first = time.perf_counter() - start
            for _ in itertools.islice(stream, count // BATCH - 1):
                pass
            times[name] = (time.perf_counter() - start) * 1e3 / count
            asked = count_requests(address) / count
            cell = f"{times[name]:.2f} ({times[name] / times[OURS]:.2f} ×)"
            found[name] = f"{cell}, first batch {first:.2f} s", f"{asked:.2f}"
            stream.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
