"""How encoding grows with workers: 1 to 2 measured here, thousands projected, and what it costs.

    python -m tests.benchmarks.scaling

First the same pictures are encoded by one and by two processes of this machine, and by one and by
two workers of Dask. Rates are between the first receipts and the last, so that starting is left
out; CPU seconds are those of the command and its workers meanwhile. `by the clock` needs a machine
that does nothing else; `of a core` says what two free cores would give, and holds on a busy one
too. Then requests are counted in moto's S3, and all of it is put together for datasets and clusters
that are not at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from latent_store.components.registry import component_keys
from latent_store.console import Number, make_parser, progress, run_command
from latent_store.errors import JobFailedError
from latent_store.format.plan import make_plan
from latent_store.format.plan_files import read_plan, write_plan
from latent_store.format.samples import Sample
from latent_store.shards import receipts
from latent_store.storage.location import Location
from pipelines.jobs.job_flags import DEFAULT_SAMPLES_PER_SHARD
from pipelines.scenes.scene import render_scene
from tests.benchmarks import scaling_model as model
from tests.benchmarks import scaling_requests
from tests.benchmarks.commands import MODULES
from tests.benchmarks.environment import conditions, one_thread
from tests.benchmarks.fault_server import GET_LIKE, ROUNDS
from tests.benchmarks.slow_server import BYTES_PER_S, LATENCY_S
from tests.benchmarks.table import markdown

AIMS = {"multi_processing": 1.9, "Dask": 1.8}
FULL = (1024, 2048)
"""A picture of Cityscapes."""
NAME = "cityscapes/train"
PACKAGES = ("torch", "numpy", "zarr", "apache-beam", "dask")
PLAN_ROWS = 20_000
_POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds a picture, by the clock and of processors."""

    wall: float
    cpu: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.scaling", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.scaling", __doc__ or "")
    add = parser.add_argument
    add("--size", default="512x1024", help="HEIGHTxWIDTH of the pictures that are encoded, pixels")
    add("--shards", type=Number(int, 4), default=16, help="of each run")
    add("--rows", type=Number(int, 1), default=2, help="pictures a shard")
    add("--repeats", type=Number(int, 1), default=2, help="of each run, in turns; the best counts")
    add("--latency", type=Number(float), default=LATENCY_S, help="of a request in seconds, assumed")
    bandwidth = "bytes a second of one worker, assumed"
    add("--bandwidth", type=Number(float, 1), default=BYTES_PER_S, help=bandwidth)
    price = "US dollars, of a list"
    add("--vcpu_hour", type=Number(float), default=model.VCPU_HOUR_USD, help=price)
    add("--memory_gb_hour", type=Number(float), default=model.MEMORY_GB_HOUR_USD, help=price)
    return parser


def _run(flags: argparse.Namespace) -> int:
    height, width = map(int, flags.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_pictures(root / "data", flags.shards * flags.rows, height, width)
        rates, url = _measured_rates(root, flags)
        print(_speed_table(rates), end="\n\n")
        measured = _put_together(root, url, rates["multi_processing", 1], flags, height * width)
    print(_what_was_measured(measured, flags), end="\n\n")
    print(_projections(measured, flags))
    return 0


def _write_pictures(root: Path, count: int, height: int, width: int) -> None:
    scene = render_scene(0, 0, height, width)
    for kind in ("leftImg8bit", "gtFine"):
        (root / f"{kind}/train/aa").mkdir(parents=True)
    labels = Image.fromarray(np.tile(np.arange(34, dtype=np.uint8), (height, width // 34 + 1)))
    for number in range(count):
        stem = f"aa/aa_{number:06d}_000019"
        picture_HWC = np.roll(scene.image_HWC, 64 * number, axis=1)
        Image.fromarray(picture_HWC).save(root / f"leftImg8bit/train/{stem}_leftImg8bit.png")
        part = labels.crop((0, 0, width, height))
        part.save(root / f"gtFine/train/{stem}_gtFine_labelIds.png")


def _measured_rates(
    root: Path, flags: argparse.Namespace
) -> tuple[dict[tuple[str, int], Rate], Path]:
    """Encodes in turns, and returns the best rates and one of the stores."""
    runs = [(runner, workers) for runner in AIMS for workers in (1, 2)] * flags.repeats
    found: dict[tuple[str, int], list[Rate]] = {}
    for number, (runner, workers) in enumerate(progress(runs, desc="encoding", unit="run")):
        url = root / f"{number}.zarr"
        words = ["--store", str(url), "--data_root", str(root / "data"), "--demo_codec"]
        words += ["--dataset", "cityscapes", "--split", "train", "--threads", "1"]
        words += ["--samples_per_shard", str(flags.rows)]
        with _workers(runner, workers) as (more, others):
            rate = _rate_of([*words, *more], url, workers, flags, others)
        found.setdefault((runner, workers), []).append(rate)
        told = f"{runner}, {workers}: {rate.wall:.3f} s a picture, {rate.cpu:.3f} of a core"
        print(told, file=sys.stderr)
    best = {
        run: Rate(wall=min(r.wall for r in of), cpu=min(r.cpu for r in of))
        for run, of in found.items()
    }
    return best, root / "0.zarr"


@contextlib.contextmanager
def _workers(runner: str, count: int) -> Iterator[tuple[list[str], list[int]]]:
    """Yields the flags of so many workers, and those processes that are not the command's own."""
    if runner == "multi_processing":
        yield ["--direct_running_mode", runner, "--direct_num_workers", str(count)], []
        return
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=count, **options) as cluster:
        address = cluster.scheduler_address
        pids = [nanny.pid for nanny in cluster.workers.values()]
        yield ["--runner", "DaskRunner", "--dask_client_address", address], pids


def _rate_of(
    words: Sequence[str], url: Path, workers: int, flags: argparse.Namespace, others: Sequence[int]
) -> Rate:
    call = [sys.executable, "-m", MODULES["encode-to-store"], *words]
    marks: list[tuple[float, float]] = []
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(call, stdout=said, stderr=said, env=one_thread()) as process,
    ):
        # The first shards have each worker's start in them.
        for wanted in (workers, flags.shards):
            while _receipts(url) < wanted and process.poll() is None:
                time.sleep(_POLL_SECONDS)
            marks.append((time.perf_counter(), _cpu_of([process.pid, *others])))
        if process.wait():
            said.seek(0)
            raise JobFailedError(f"an encode failed: {said.read()[-500:]}")
    (start, before), (end, after) = marks
    pictures = (flags.shards - workers) * flags.rows
    return Rate(wall=(end - start) / pictures, cpu=(after - before) / pictures)


def _receipts(url: Path) -> int:
    return sum(1 for _ in url.glob(f".latent_store/{NAME}/receipts/latents/*/[0-9]*.json"))


def _cpu_of(pids: Sequence[int]) -> float:
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(pid)
            for process in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system
    return total


def _speed_table(rates: dict[tuple[str, int], Rate]) -> str:
    rows = []
    for runner, aim in AIMS.items():
        one, two = rates[runner, 1], rates[runner, 2]
        rows.append(
            (
                f"{runner}, 1 to 2",
                f"{one.wall:.3f} / {two.wall:.3f}",
                f"{one.cpu:.3f} / {two.cpu:.3f}",
                f"{one.wall / two.wall:.2f} ×",
                f"{2 * one.cpu / two.cpu:.2f} ×",
                f"≥ {aim} ×",
            )
        )
    header = ("workers", "s a picture", "CPU-s a picture", "by the clock", "of a core", "aim")
    return f"{conditions(PACKAGES)}\n\n{markdown(header, rows)}"


def _put_together(
    root: Path, url: Path, rate: Rate, flags: argparse.Namespace, pixels: int
) -> model.Measured:
    """Measures what else the projection needs; of a picture of full size, by its pixels."""
    larger, pictures = FULL[0] * FULL[1] / pixels, flags.shards * flags.rows
    location = Location(url)
    check_cpu = _compare_seconds(location, flags.shards) / pictures
    sizes = location.sizes("").items()
    stored = sum(size for key, size in sizes if f"{NAME}/" in key)  # The codec is there once.
    read = sum(path.stat().st_size for path in (root / "data").rglob("*.png"))
    return model.Measured(
        picture_cpu=rate.cpu * larger,
        check_cpu=check_cpu * larger,
        read_bytes=read / pictures * larger,
        stored_bytes=stored / pictures * larger,
        start=_start_seconds(),
        plan_row=_plan_seconds(root / "plan.zarr"),
        asked=scaling_requests.measure_requests(),
        latency=flags.latency,
        bandwidth=flags.bandwidth,
    )


def _compare_seconds(location: Location, shards: int) -> float:
    """Returns the CPU-s that it takes to hold all objects to their receipts, once they are read."""
    seconds = 0.0
    for component in component_keys(location, NAME):
        for receipt in receipts.read_receipts(location, NAME, component, range(shards)).values():
            for key, stored in receipt.objects.items():
                data, start = location.read(key), time.process_time()
                if stored.defect(data):
                    raise JobFailedError(f"{key} is not what its receipt says")
                seconds += time.process_time() - start
    return seconds


def _start_seconds() -> float:
    """Returns the CPU-s of a process that loads what a worker needs."""
    before = os.times()
    code = "import pipelines.jobs.encoding"
    subprocess.run([sys.executable, "-c", code], check=True, env=one_thread())
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def _plan_seconds(url: Path) -> float:
    """Returns the CPU-s a row that opening a plan takes; of its parts a worker reads few."""
    fields = {"label_uri": "", "height": FULL[0], "width": FULL[1], "image_bytes": 10**6}
    samples = [
        Sample(sample_id=f"s{i:07d}", image_uri=f"gs://pictures/{i:07d}.png", **fields)
        for i in range(PLAN_ROWS)
    ]
    location, plan = Location(url), make_plan("made", "train", samples, DEFAULT_SAMPLES_PER_SHARD)
    write_plan(location, plan)
    read_plan(location, "made", "train").in_shard(0)  # The first time loads what reads Parquet.
    start = time.process_time()
    read_plan(location, "made", "train")
    return (time.process_time() - start) / PLAN_ROWS


def _what_was_measured(measured: model.Measured, flags: argparse.Namespace) -> str:
    header = ("phase", "what", "once", "a picture", "a shard")
    rows = [
        (phase, what, f"{asked.once:.2f}", f"{asked.a_picture:.4f}", f"{asked.a_shard:.2f}")
        for phase, table in measured.asked.items()
        for what, asked in table.items()
    ]
    text = (
        f"A picture of {FULL[0]}x{FULL[1]} (measured at {flags.size}, by pixels): "
        f"{measured.picture_cpu:.2f} CPU-s on a worker, {1e3 * measured.check_cpu:.2f} CPU-ms to "
        f"compare; {measured.read_bytes / 1e6:.2f} MB read, {measured.stored_bytes / 1e6:.2f} MB "
        "stored.\n"
        f"A worker starts in {measured.start:.1f} CPU-s and opens a plan in "
        f"{1e6 * measured.plan_row:.3f} µs a row.\n"
        f"Assumed: {1e3 * measured.latency:.0f} ms a round, {measured.bandwidth / 1e6:.0f} MB/s a "
        "worker, one core a worker."
    )
    return f"{text}\n\n{markdown(header, rows)}"


def _projections(measured: model.Measured, flags: argparse.Namespace) -> str:
    header = (
        *("pictures", "workers", "rows a shard", "before", "starting", "shards", "closing"),
        *("all (h)", "bound by", "machines ($)", "requests ($)", "a month of storage ($)"),
    )
    rows, told = [], []
    for pictures in (model.SMALL, model.LARGE):
        for workers in model.WORKERS:
            chosen = model.chosen_rows(pictures, workers, DEFAULT_SAMPLES_PER_SHARD)
            for size in dict.fromkeys((DEFAULT_SAMPLES_PER_SHARD, chosen)):
                found = model.project(measured, pictures, workers, size)
                rows.append(_row(found, flags))
                told.append(_arithmetic(found, measured, flags))
    opening = model.LARGE * measured.plan_row
    before = measured.asked[scaling_requests.BEFORE]
    heads, rounds, cpu = (
        before[what].a_picture for what in (GET_LIKE, ROUNDS, scaling_requests.CPU)
    )
    sources = [f"Prices: {model.STORAGE_SOURCE}.", f"{model.MACHINE_SOURCE}."]
    plan = (
        "The plan: rows a shard are chosen once (--samples_per_shard, default "
        f"{DEFAULT_SAMPLES_PER_SHARD}); requests go with shards more than with pictures. "
        "Where two sizes stand, the second is the largest power of two that leaves each worker "
        f"{model.SHARDS_A_WORKER} shards. A worker opens one of {model.LARGE:,} rows in "
        f"{opening:.1f} CPU-s, and reads the parts of its shards. The launcher reads every "
        f"picture's head before, for its size: {heads:.0f} request each, "
        f"{rounds:.2f} rounds, {1e3 * cpu:.1f} CPU-ms."
    )
    return "\n\n".join([markdown(header, rows), plan, "\n".join(told), "\n".join(sources)])


def _row(found: model.Projection, flags: argparse.Namespace) -> tuple[str, ...]:
    dollars = found.dollars(flags.vcpu_hour, flags.memory_gb_hour)
    return (
        *(f"{found.pictures:,}", f"{found.workers:,}", str(found.rows)),
        *(f"{seconds / 3600:.2f}" for seconds in found.seconds.values()),
        f"{found.total / 3600:.2f}",
        found.bound,
        *(f"{amount:,.2f}" for amount in dollars.values()),
    )


def _arithmetic(
    found: model.Projection, measured: model.Measured, flags: argparse.Namespace
) -> str:
    dollars = found.dollars(flags.vcpu_hour, flags.memory_gb_hour)
    machine = f"{flags.vcpu_hour} + {model.MEMORY_GB} · {flags.memory_gb_hour}"
    a, b = (found.requests[name] for name in (model.PUT_LIKE, model.GET_LIKE))
    parts = " + ".join(f"{seconds:,.0f}" for seconds in found.seconds.values())
    closing = " + ".join(f"{seconds:,.0f} {what}" for what, seconds in found.closing.items())
    return (
        f"- {found.pictures:,} pictures, {found.workers:,} workers, {found.rows} rows: {parts} s, "
        f"closing of {closing}; machines {found.machine_hours:,.2f} h · ({machine}) $ = "
        f"{dollars['machines']:,.2f} $; requests {a:,.0f} · {model.CLASS_A_USD:.1e} $ + {b:,.0f} · "
        f"{model.CLASS_B_USD:.1e} $ = {dollars['requests']:,.2f} $; storage "
        f"{found.stored_gb:,.1f} GB · {model.GB_MONTH_USD} $ = "
        f"{dollars['a month of storage']:,.2f} $ a month"
    )


if __name__ == "__main__":
    sys.exit(main())
