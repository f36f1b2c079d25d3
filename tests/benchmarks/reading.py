"""Reading: what a sample costs in our loader and in what else users would take, in one run.

    python -m tests.benchmarks.reading

Makes pictures of 1024 x 2048 with the statistics of real ones, writes them in every format, and
reads shuffled batches of 8 with two workers, warm; and cold from a server 20 ms and 200 MB/s away.
Formats take turns, so that whatever else the machine does meets all alike; times are medians.
LitData, MosaicML's MDS and WebDataset take part where they are: `pip install '.[peers]'`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from latent_store.console import Number, make_parser, progress, run_command
from tests.benchmarks.cpu_time import cpu_seconds
from tests.benchmarks.environment import conditions
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
from training.data.loader import CropLoader
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoredChannels, StoreSource
from training.tasks.annotations import PixelLabels

TASKS = (FULL, RANKED, CROPS)
EVERY = (*PEERS, *STREAMS)
OURS, ONE, PROCESSES, CACHED = (
    "ours, threads",
    "ours, one thread",
    "ours, processes",
    "ours, cached",
)
Open = Callable[[What], Generator[Any]]
"""Gives batches for ever."""
_AHEAD, _MEASURED = 16, 24
"""Batches that workers have ready while others are measured, and those that are measured then:
whole loads of ours, as many of each worker."""


@dataclass(frozen=True)
class Cost:
    """What a sample cost: milliseconds by the clock, and of a core in all processes together."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} / {self.cpu:.2f}"


Costs = dict[str, dict[str, Cost]]
"""Name of a task -> what is measured -> its cost."""


@dataclass(frozen=True)
class Afar:
    """A first epoch from a distance: ms and requests a sample, without what opening takes; and
    seconds to its first batch, with it."""

    wall: float
    requests: float
    first: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.reading", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.reading", __doc__ or "")
    add = parser.add_argument
    add("--samples", type=Number(int, BATCH), default=96, help="pictures, rounded to whole batches")
    add("--rounds", type=Number(int, 1), default=3, help="times that each is measured")
    add("--workers", type=Number(int, 1), default=2, help="workers of each")
    add("--work", type=Path, help="folder for what is made (default: removed afterwards)")
    return parser


def _run(flags: argparse.Namespace) -> int:
    count = flags.samples - flags.samples % BATCH
    with tempfile.TemporaryDirectory(dir=flags.work) as folder:
        root = Path(folder)
        peers = [peer for peer in EVERY if is_there(peer)]
        sizes = _write(root, peers, Pictures(count))
        costs = _measure_near(root, peers, count, flags)
        afar = _measure_afar(root, peers, count, flags.workers)
    missing = [peer.name for peer in EVERY if peer not in peers]
    parts = [
        _conditions(count, flags),
        _table(sizes, costs, afar),
        _aims(peers, sizes, costs, afar),
    ]
    parts += [f"Not installed: {', '.join(missing)}."] if missing else []
    sys.stdout.write("\n\n".join(parts) + "\n")
    return 0


def _conditions(count: int, flags: argparse.Namespace) -> str:
    packages = ("torch", "numpy", "zarr", "pyarrow", "tensorstore")
    return (
        f"{conditions(packages)}; {count} samples, {flags.workers} workers, medians of "
        f"{flags.rounds}. Milliseconds a sample: by the clock / of a core."
    )


def _table(sizes: Mapping[str, float], costs: Costs, afar: Mapping[str, Afar]) -> str:
    header = ["", "KiB", *costs, "20 ms away, by the clock", "requests", "first batch"]
    rows = []
    for name in costs[FULL.name]:
        far = afar.get(name)
        cells = [f"{far.wall:.1f}", f"{far.requests:.2f}", f"{far.first:.2f} s"] if far else []
        near = [str(of_task[name]) for of_task in costs.values()]
        rows.append([name, f"{sizes[name]:,.0f}", *near, *(cells or [""] * 3)])
    return markdown(header, rows)


def _aims(
    peers: Sequence[type[Peer]], sizes: Mapping[str, float], costs: Costs, afar: Mapping[str, Afar]
) -> str:
    """Returns how many times as fast as the fastest peer ours is, and what else was aimed at."""
    rows = []
    raw = [peer.name for peer in peers if peer.raw]
    for what, rivals, aim in (
        (FULL, raw, 0.9),
        (RANKED, [peer.name for peer in peers], 1.2),
        (CROPS, [peer.name for peer in peers], 1.2),
    ):
        of_task = costs[what.name]
        wall, name = min((of_task[rival].wall, rival) for rival in rivals)
        cpu, thrifty = min((of_task[rival].cpu, rival) for rival in rivals)
        kind = "fastest raw peer" if rivals is raw else "fastest peer"
        found = (
            f"{wall / of_task[OURS].wall:.2f} × {name}; of a core "
            f"{cpu / of_task[OURS].cpu:.2f} × {thrifty}"
        )
        rows.append([f"{what.name} against the {kind}", f"≥ {aim} ×", found])
    times = costs[FULL.name]
    rows.append(
        ["bytes against raw", "≤ 1/80", f"1/{max(sizes[n] for n in raw) / sizes[OURS]:.0f}"]
    )
    rows.append(["1 → 2 workers", "≥ 1.8 ×", f"{times[ONE].wall / times[OURS].wall:.2f} ×"])
    far = afar[OURS]
    rows.append(["20 ms away, ms a sample", "≤ 5", f"{far.wall:.1f}"])
    rows.append(["20 ms away, requests a sample", "≤ 0.3", f"{far.requests:.2f}"])
    rows.append(["20 ms away, first batch", "≤ 1 s", f"{far.first:.2f} s"])
    return markdown(["what", "aim", "measured"], rows)


def _write(root: Path, peers: Sequence[type[Peer]], pictures: Pictures) -> dict[str, float]:
    """Writes every format; returns KiB a sample by name."""
    write_ours(root / "ours.zarr", pictures)
    objects = [path for name in ("y_hat", "segmentation") for path in root.rglob(f"{name}/c")]
    ours = sum(_bytes(path) for path in objects if "ranked" not in path.parts)
    sizes = dict.fromkeys([OURS, ONE, PROCESSES, CACHED], ours)
    for peer in progress(peers, desc="write", unit="format"):
        folder = root / peer.__name__
        folder.mkdir()
        peer(folder, pictures.count).write(pictures)
        sizes[peer.name] = _bytes(folder) or ours
    return {name: size / pictures.count / 1024 for name, size in sizes.items()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def open_loader(
    what: What, url: str, workers: int, kind: str = "thread", cache_mb: int = 0
) -> CropLoader:
    """Opens our store at an address, as a trainer does."""
    spec = SourceSpec(
        url=url,
        split=SPLIT,
        annotations=PixelLabels(),
        domain="latent",
        codec_id=CODEC,
        stored=StoredChannels(ranking_id=RANKING, keep=what.keep),
        cache_mb=cache_mb,
    )
    how: dict[str, Any] = {"workers": workers, "worker_kind": kind, "cache_mb": cache_mb}
    config = LoaderConfig(batch_size=BATCH, crop=what.crop, **how)
    return CropLoader(StoreSource(spec), config, seed=0)


def _ours(*where: Any, **how: Any) -> Open:
    def batches(what: What) -> Generator[Any]:
        with closing(open_loader(what, *where, **how)) as loader:
            while True:
                yield from loader

    return batches


def _measure_near(
    root: Path, peers: Sequence[type[Peer]], count: int, flags: argparse.Namespace
) -> Costs:
    url = str(root / "ours.zarr")
    everything: dict[str, Open] = {
        OURS: _ours(url, flags.workers),
        ONE: _ours(url, 1),
        PROCESSES: _ours(url, flags.workers, "process"),
        CACHED: _ours(url, flags.workers, cache_mb=1 << 15),
    }
    for peer in peers:
        everything[peer.name] = lambda what, peer=peer: peer(
            root / peer.__name__, count, what
        ).batches(flags.workers)
    return {
        what.name: _take_turns({n: make(what) for n, make in everything.items()}, count, flags)
        for what in TASKS
    }


def _take_turns(
    streams: dict[str, Generator[Any]], count: int, flags: argparse.Namespace
) -> dict[str, Cost]:
    """Returns what a sample of each costs; the first epochs of each are not measured."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in streams}
    for turn in progress(range(flags.rounds + 1), desc="read", unit="round"):
        for name, stream in streams.items():
            # What lies ready from the turn before is no part of this one.
            _take(stream, _AHEAD + (0 if turn else 2 * count // BATCH))
            start = time.perf_counter(), cpu_seconds()
            _take(stream, _MEASURED)
            spent = time.perf_counter() - start[0], cpu_seconds() - start[1]
            found[name].append((spent[0], spent[1]))
    for stream in streams.values():
        stream.close()
    each = 1e3 / (_MEASURED * BATCH)
    return {
        name: Cost(*(each * median(column) for column in zip(*turns[1:], strict=True)))
        for name, turns in found.items()
    }


def _take(stream: Generator[Any], batches: int) -> None:
    for _ in itertools.islice(stream, batches):
        pass


def _measure_afar(
    root: Path, peers: Sequence[type[Peer]], count: int, workers: int
) -> dict[str, Afar]:
    found: dict[str, Afar] = {}
    with serving(root) as address:
        for peer in peers:
            if peer in AFAR:
                far = AFAR[peer](f"{address}/{peer.__name__}", count)
                found[peer.name] = _first_epoch(
                    address, count, lambda far=far: far.batches(workers)
                )
        opening = time.perf_counter()
        with closing(open_loader(FULL, f"{address}/ours.zarr", workers)) as loader:
            opening = time.perf_counter() - opening
            epoch = _first_epoch(address, count, lambda: (batch for batch in loader))
        found[OURS] = dataclasses.replace(epoch, first=epoch.first + opening)
    return found


def _first_epoch(address: str, count: int, make: Callable[[], Generator[Any]]) -> Afar:
    count_requests(address)
    start = time.perf_counter()
    stream = make()
    next(stream)
    first = time.perf_counter() - start
    _take(stream, count // BATCH - 1)
    wall = (time.perf_counter() - start) * 1e3 / count
    stream.close()
    return Afar(wall, count_requests(address) / count, first)


if __name__ == "__main__":
    sys.exit(main())
