"""Times of both sides, as the paper's table 3 has them: `python -m training.latency`.

    encode          pad ─ g_a ─ h_a ─ h_s ─ gate (dynamic) ─ entropy coding of what is sent
    decode + task   entropy decoding (with h_s) ─ g_s (pixels) ─ network ─ map

The stages are those of `segment`. They alternate between CPU and GPU, so time is that of a clock
between synchronisations, what a camera waits for; events on the GPU would leave the CPU's part out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latent_store
from latent_store.codec import read_image
from latent_store.console import make_parser, progress, run_command
from latent_store.errors import DatasetError, LatentStoreError
from latent_store.storage.location import write_text
from latent_store.store import LatentStore
from training.networks.networks import NetworkConfig
from training.tables import align, markdown_table
from training.trainer.trainer_config import choose_device
from training.transmission.link import Link, Stopwatch, open_link, receive, send

PROG = "training.latency"
_DESCRIPTION = """Times a camera and a server with networks of every kind, stage by stage.

The pictures are those that a split's latents decode to, or given ones; after a warm-up, each run
takes the next one. Writes latency.json and latency.md below OUTPUT, beside the paper's table 3.
"""
_EXAMPLE = """example:
  python -m training.latency --store city.zarr --dataset cityscapes --split val \\
      --checkpoint runs/teacher/last.pt runs/dynamic/last.pt runs/static-16/last.pt --output latency
"""
PIXEL = "pixel"
PAPER = {
    PIXEL: (0.142, 0.320),
    "dynamic": (0.090, 0.217),
    "static, 16 channels": (0.060, 0.195),
    "static, 32 channels": (0.067, 0.198),
    "static, 64 channels": (0.082, 0.208),
    "static, 128 channels": (0.111, 0.226),
    "no gate": (0.139, 0.247),
}
"""Seconds of encoding, and of decoding and task, in table 3 (GeForce RTX 3090)."""
_COLUMNS = (
    "network", "file", "encode (ms)", "decode + task (ms)", "total (ms)", "of pixel's",
    "paper: encode (s)", "decode + task (s)", "of pixel's",
)  # fmt: skip
_TEXT_COLUMNS = 2


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Milliseconds over runs: the median, and what a tenth of the runs lies below and above."""

    median: float
    p10: float
    p90: float

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.p10:.1f}-{self.p90:.1f})"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """One network's times.

    Attributes:
        kind: As the rows of the paper's table are called.
        checkpoint: File name, with its folder's.
        codec_id: The codec.
        channels: Sent channels, mean over the runs.
        encode, decode: Of each side's sum.
        total: Of both sides' sum.
        stages: Of each stage of the camera, then of the server.
    """

    kind: str
    checkpoint: str
    codec_id: str
    channels: float
    encode: Spread
    decode: Spread
    total: Spread
    stages: dict[str, Spread]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return run_command(PROG, lambda: _measure(args))


def time_links(
    links: Sequence[Link], pictures: Sequence[np.ndarray], repeats: int, warm_up: int = 3
) -> list[Latency]:
    """Times networks on pictures in turn.

    Every run has each network once: what else the machine does, and how warm it is, changes over
    minutes, and would otherwise be taken for a difference between networks.

    Args:
        links: Codec, gate and network of each.
        pictures: Uint8 [H, W, 3] each, at least one.
        repeats: Timed runs.
        warm_up: Runs before them, which are not counted.
    """
    runs: list[list[_Run]] = [[] for _ in links]
    for number in progress(range(-warm_up, repeats), desc="latency", unit="run"):
        for link, found in zip(links, runs, strict=True):
            run = _run_once(link, pictures[number % len(pictures)])
            if number >= 0:
                found.append(run)
    return [_latency(link, found) for link, found in zip(links, runs, strict=True)]


def open_links(checkpoint: Path, device: str, codec: bytes) -> list[Link]:
    """Opens a checkpoint with the codec for a teacher; one for any N once, at each of its cuts."""
    link = open_link(checkpoint, device, codec)
    return [dataclasses.replace(link, keep=keep) for keep in link.config.cuts or (None,)]


def kind_of(config: NetworkConfig, keep: int | None = None) -> str:
    """Returns a network's row in the paper's table, or the like of it; at `keep` for any N."""
    if config.domain == "pixel":
        return PIXEL
    if config.channels is not None:
        return f"{config.selection}, {keep or len(config.channels)} channels"
    return "no gate" if config.selection == "none" else config.selection


def latency_markdown(found: Sequence[Latency], setting: dict[str, Any]) -> str:
    """Returns `latency.md`: both sides beside the paper's numbers, then every stage."""
    names = list(dict.fromkeys(name for latency in found for name in latency.stages))
    stages = [
        (x.kind, x.checkpoint, *(str(x.stages[n]) if n in x.stages else "-" for n in names))
        for x in found
    ]
    what = (
        f"Milliseconds on {setting['device']} ({setting['threads']} CPU threads): medians of "
        f"{setting['repeats']} runs with one picture each, in brackets the 10 % and 90 % "
        f"quantiles, after {setting['warm_up']} runs to warm up. Pictures: "
        f"{', '.join(setting['pictures'])}. Reading and writing files is not counted."
    )
    note = (
        "The paper's seconds are of another machine (GeForce RTX 3090) and coder: compare the "
        "ratios to the pixel domain, not the times."
    )
    parts = ["# Latency", what, _table(found, markdown=True), note]
    header = ("network", "file", *(f"{name} (ms)" for name in names))
    parts += ["## Stages", markdown_table(header, stages, _TEXT_COLUMNS)]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One picture: milliseconds of each side's stages, and how many channels were sent."""

    camera: dict[str, float]
    server: dict[str, float]
    channels: int


def _run_once(link: Link, image_HWC: np.ndarray) -> _Run:
    camera, server = Stopwatch(link.device), Stopwatch(link.device)
    stream = send(link, image_HWC, camera)
    hook = link.codec.model.g_s.register_forward_hook(lambda *_: server.lap("g_s"))
    try:
        receive(link, stream, server)
    finally:
        hook.remove()
    return _Run(
        camera=camera.milliseconds, server=server.milliseconds, channels=len(stream.channels)
    )


def _latency(link: Link, runs: Sequence[_Run]) -> Latency:
    sums = np.array([[sum(run.camera.values()), sum(run.server.values())] for run in runs])
    stages = [run.camera | run.server for run in runs]
    path = Path(link.name)
    return Latency(
        kind=kind_of(link.config, link.keep),
        checkpoint=f"{path.parent.name}/{path.name}",
        codec_id=link.codec.spec.codec_id,
        channels=float(np.mean([run.channels for run in runs])),
        encode=_spread(sums[:, 0]),
        decode=_spread(sums[:, 1]),
        total=_spread(sums.sum(axis=1)),
        stages={name: _spread(np.array([run[name] for run in stages])) for name in stages[0]},
    )


def _spread(values: np.ndarray) -> Spread:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return Spread(median=float(middle), p10=float(low), p90=float(high))


def _table(found: Sequence[Latency], *, markdown: bool) -> str:
    pixel = next((x.total.median for x in found if x.kind == PIXEL), None)
    rows = [_row(latency, pixel) for latency in found]
    if markdown:
        return markdown_table(_COLUMNS, rows, _TEXT_COLUMNS)
    return align([_COLUMNS, *rows], _TEXT_COLUMNS)


def _row(latency: Latency, pixel: float | None) -> tuple[str, ...]:
    paper = PAPER.get(latency.kind)
    theirs = ("-", "-", "-")
    if paper is not None:
        ratio = sum(paper) / sum(PAPER[PIXEL])
        theirs = (f"{paper[0]:.3f}", f"{paper[1]:.3f}", f"{100 * ratio:.1f} %")
    return (
        latency.kind,
        latency.checkpoint,
        str(latency.encode),
        str(latency.decode),
        str(latency.total),
        "-" if pixel is None else f"{100 * latency.total.median / pixel:.1f} %",
        *theirs,
    )


def _measure(args: argparse.Namespace) -> int:
    _check(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = str(choose_device(args.device))
    store = latent_store.open(args.store)
    pictures = _pictures(args, store)
    codec = store.codec_checkpoint(store.codec(args.codec).codec_id)
    links = [link for path in args.checkpoint for link in open_links(path, device, codec)]
    found = time_links(links, pictures, args.repeats, args.warm_up)
    setting = {
        "store": store.url,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": args.repeats,
        "warm_up": args.warm_up,
        "pictures": [f"{image.shape[1]}x{image.shape[0]}" for image in pictures],
    }
    content = {"setting": setting, "latencies": [dataclasses.asdict(x) for x in found]}
    write_text(args.output / "latency.json", json.dumps(content, indent=1) + "\n")
    write_text(args.output / "latency.md", latency_markdown(found, setting))
    sys.stdout.write(f"{_table(found, markdown=False)}\n")
    sys.stdout.write(f"on {setting['device']}, {setting['threads']} CPU threads\n")
    sys.stdout.write(f"written: {args.output / 'latency.md'}\n")
    return 0


def _pictures(args: argparse.Namespace, store: LatentStore) -> list[np.ndarray]:
    if args.image:
        return [read_image(path) for path in args.image]
    split = store[f"{args.dataset}/{args.split}"]
    rows = split.common_rows(split.latents(args.codec))[: args.max_samples]
    if not len(rows):
        raise DatasetError(
            f"{split.plan.name} of {store.url} has no latents to decode pictures from; encode "
            "some, or give --image"
        )
    return [split.decode(int(row), codec=args.codec) for row in rows]


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.processor() or platform.machine()})"


def _check(args: argparse.Namespace) -> None:
    least = {"repeats": 1, "warm_up": 0, "threads": 1, "max_samples": 1}
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise LatentStoreError(f"--{name} must be at least {lowest}, got {value}")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(PROG, _DESCRIPTION, _EXAMPLE)
    add = parser.add_argument
    add("--store", required=True, metavar="URL", help="the latent store")
    add("--dataset", default="cityscapes", help="dataset whose pictures are decoded")
    add("--split", default="val", help="split whose pictures are decoded")
    add("--codec", metavar="ID", help="codec of those pictures and of teachers")
    add("--max_samples", type=int, default=1, metavar="N", help="pictures that take turns")
    add("--image", nargs="+", type=Path, metavar="I", help="time these pictures instead")
    add("--checkpoint", required=True, nargs="+", type=Path, metavar="F", help="networks to time")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the tables")
    add("--repeats", type=int, default=20, help="timed runs of each network")
    add("--warm_up", type=int, default=3, help="runs before them, which are not counted")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", type=int, help="CPU threads of torch (default: torch's own)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
