"""The time that each side takes, stage by stage, beside the paper's table 3.

    encode          pad ─ g_a ─ h_a ─ h_s ─ gate (dynamic) ─ entropy coding of what is sent
    decode + task   entropy decoding (with h_s) ─ g_s (pixels) ─ network ─ prediction

The stages are those of `segment`. They alternate between CPU and GPU, so time is that of a clock
between synchronisations, what a camera waits for; events on the GPU would leave the CPU's part out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latent_store.console import progress
from training.networks.network_config import NetworkConfig
from training.selection.gated import Gated
from training.tables import Section, align, markdown_table
from training.tasks.registry import find_task
from training.transmission.camera_server import Stopwatch, Transmission, open_transmission

PIXEL = "pixel"
PAPER = {
    PIXEL: (0.142, 0.320),
    Gated.name: (0.090, 0.217),
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
_TimedRun = tuple[dict[str, float], dict[str, float], int]
"""Milliseconds of the camera's and of the server's stages, and how many channels were sent."""


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
        task: Of the network.
        checkpoint: File name, with its folder's.
        channels: Sent channels, mean over the runs.
        encode, decode, total: Of each side's sum, and of both.
        stages: Of each stage of the camera, then of the server.
    """

    kind: str
    task: str
    checkpoint: str
    codec_id: str
    channels: float
    encode: Spread
    decode: Spread
    total: Spread
    stages: dict[str, Spread]


def time_all(
    transmissions: Sequence[Transmission],
    pictures: Sequence[np.ndarray],
    repeats: int,
    warm_up: int = 3,
) -> list[Latency]:
    """Times networks on pictures, uint8 [H, W, 3] each, in turn, after runs that are not counted.

    Every run has each network once: what else the machine does, and how warm it is, changes over
    minutes, and would otherwise be taken for a difference between networks.
    """
    runs: list[list[_TimedRun]] = [[] for _ in transmissions]
    for number in progress(range(-warm_up, repeats), desc="latency", unit="run"):
        for ends, found in zip(transmissions, runs, strict=True):
            run = _run_once(ends, pictures[number % len(pictures)])
            if number >= 0:
                found.append(run)
    return [_latency(*pair) for pair in zip(transmissions, runs, strict=True)]


def open_all(checkpoint: Path, device: str, codec: bytes) -> list[Transmission]:
    """Opens a checkpoint once, with the codec for a teacher, for each number of kept channels."""
    ends = open_transmission(checkpoint, device, codec)
    return [dataclasses.replace(ends, keep=k) for k in ends.network.config.channel_selection.keeps]


def kind_of(config: NetworkConfig, keep: int | None = None) -> str:
    """Returns a network's row in the paper's table, or the like of it; at `keep` for any N."""
    return PIXEL if config.domain == "pixel" else config.channel_selection.kind(keep)


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
    header = ("network", "file", *(f"{name} (ms)" for name in names))
    parts = ["# Latency", what, table(found, markdown=True), note]
    parts.append(
        Section(title="Stages", header=header, rows=stages, text_columns=_TEXT_COLUMNS).markdown()
    )
    return "\n\n".join(parts) + "\n"


def _run_once(ends: Transmission, image_HWC: np.ndarray) -> _TimedRun:
    camera, server = Stopwatch(ends.network.device), Stopwatch(ends.network.device)
    stream = ends.send(image_HWC, camera)
    with ends.codec.model.g_s.register_forward_hook(lambda *_: server.lap("g_s")):
        ends.receive(stream, server)
    return camera.milliseconds, server.milliseconds, len(stream.channels)


def _latency(ends: Transmission, runs: Sequence[_TimedRun]) -> Latency:
    sums = np.array([[sum(camera.values()), sum(server.values())] for camera, server, _ in runs])
    stages = [camera | server for camera, server, _ in runs]
    path = Path(ends.network.name)
    return Latency(
        kind=kind_of(ends.network.config, ends.keep),
        task=ends.network.config.task,
        checkpoint=f"{path.parent.name}/{path.name}",
        codec_id=ends.codec.spec.codec_id,
        channels=float(np.mean([channels for _, _, channels in runs])),
        encode=_spread(sums[:, 0]),
        decode=_spread(sums[:, 1]),
        total=_spread(sums.sum(axis=1)),
        stages={name: _spread(np.array([run[name] for run in stages])) for name in stages[0]},
    )


def _spread(values: np.ndarray) -> Spread:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return Spread(median=float(middle), p10=float(low), p90=float(high))


def table(found: Sequence[Latency], *, markdown: bool) -> str:
    """Returns both sides beside the paper's, in Markdown or for a terminal."""
    # Of a task the first: another task's tail takes another time.
    pixel = {x.task: x.total.median for x in reversed(found) if x.kind == PIXEL}
    rows = [_row(latency, pixel.get(latency.task)) for latency in found]
    if markdown:
        return markdown_table(_COLUMNS, rows, _TEXT_COLUMNS)
    return align([_COLUMNS, *rows], _TEXT_COLUMNS)


def _row(latency: Latency, pixel: float | None) -> tuple[str, ...]:
    theirs = ("-", "-", "-")
    if find_task(latency.task).in_paper and (paper := PAPER.get(latency.kind)):
        ratio = sum(paper) / sum(PAPER[PIXEL])
        theirs = (f"{paper[0]:.3f}", f"{paper[1]:.3f}", f"{100 * ratio:.1f} %")
    return (
        *(latency.kind, latency.checkpoint),
        *(str(latency.encode), str(latency.decode), str(latency.total)),
        "-" if pixel is None else f"{100 * latency.total.median / pixel:.1f} %",
        *theirs,
    )
