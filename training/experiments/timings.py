"""Table 3 of a grid: how long camera and server take with its networks, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.latency import PAPER, PIXEL
from training.tables import markdown_table


@dataclass(frozen=True, kw_only=True)
class Timings:
    """What `training.latency` measured of a grid's networks, all in one sitting.

    Attributes:
        setting: The machine, the pictures, the number of runs.
        latencies: One entry a network: "kind" as the paper's table calls it, "channels", and
            "encode", "decode" and "total" with their medians, "p10" and "p90" in milliseconds.
    """

    setting: Mapping[str, Any]
    latencies: Sequence[Mapping[str, Any]]


def table_3(timings: Timings) -> str:
    """Returns the table in Markdown: each side's time, and its share of the pixel domain's."""
    pixel = next((x for x in timings.latencies if x["kind"] == PIXEL), None)
    rows = [_row(latency, pixel) for latency in timings.latencies]
    header = (
        "network", "channels sent", "encode (ms)", "of pixel's", "paper",
        "decode + task (ms)", "of pixel's", "paper",
    )  # fmt: skip
    setting = timings.setting
    note = (
        f"On {setting['device']} with {setting['threads']} CPU threads, one picture of "
        f"{setting['pictures'][0]} a run: medians of {setting['repeats']} runs in which the "
        "networks take turns, in brackets the 10 % and 90 % quantiles. The paper's shares are of "
        "1024×2048 pictures on a GeForce RTX 3090."
    )
    return "\n\n".join(["## Table 3: latency", markdown_table(header, rows, 1), note])


def _row(latency: Mapping[str, Any], pixel: Mapping[str, Any] | None) -> tuple[str, ...]:
    cells = [latency["kind"], f"{latency['channels']:.0f}"]
    for side, name in enumerate(("encode", "decode")):
        spread = latency[name]
        ours = "-" if pixel is None else f"{spread['median'] / pixel[name]['median']:.2f}"
        paper = PAPER.get(latency["kind"])
        theirs = "-" if paper is None else f"{paper[side] / PAPER[PIXEL][side]:.2f}"
        cells += [f"{spread['median']:.0f} ({spread['p10']:.0f}-{spread['p90']:.0f})", ours, theirs]
    return tuple(cells)
