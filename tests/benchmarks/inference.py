"""What a camera and a server cost on the CPU: 16 channels and all of them against pixels.

    python -m tests.benchmarks.inference

A made street of 1024 x 2048, coded by the demo codec; ResNet-18 networks with weights as they
start, which cost what trained ones do. Networks take turns, see `training.latency`; medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latent_store.console import Number, make_parser, run_command
from tests.benchmarks.commands import run
from tests.benchmarks.table import markdown

PIXELS = "pixels"
NETWORKS = {
    PIXELS: "--domain pixel",
    "192 channels, entry stem": "--selection none",
    "16 channels, entry stem": "--selection static --mask variance --keep 16",
    "16 channels, entry layer1": "--selection static --mask variance --keep 16 --entry layer1",
    "16 channels, entry layer2": "--selection static --mask variance --keep 16 --entry layer2",
}
AIMS = {"16 channels, entry stem": 0.6, "16 channels, entry layer2": 0.5}
"""Of the pixels' time to decode and to do the task."""
ENCODE_AIM = 0.4


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.inference", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.inference", __doc__ or "")
    add = parser.add_argument
    add("--height", type=Number(int, 64), default=1024, help="of the picture in pixels")
    add("--backbone", default="resnet18", help="of all networks")
    add("--repeats", type=Number(int, 1), default=7, help="timed runs of each network")
    add("--threads", type=Number(int, 1), default=2, help="CPU threads of torch")
    return parser


def _run(flags: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = _measure(Path(folder), flags)
    latencies = dict(zip(NETWORKS, found, strict=True))
    print(_sides(latencies), _stages(latencies), sep="\n\n")
    return 0


def _measure(root: Path, flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a `Latency` as a dict of each of `NETWORKS`."""
    data, url = root / "scenes", root / "store.zarr"
    size = {"height": flags.height, "width": 2 * flags.height}
    run("generate-scenes --train 2 --val 0", output=data, **size)
    run(
        "encode-to-store --dataset cityscapes --split train --demo_codec", data_root=data, store=url
    )
    where = {"store": url, "dataset": "cityscapes", "split": "train"}
    run("channel-frequency --method variance --ranking variance --keep 16", **where)
    run("reorder-latents --ranking variance", **where)
    for number, kind in enumerate(NETWORKS.values()):
        run(
            f"train-from-store --max_steps 0 --init scratch --lambda_kd 0 --teacher none {kind} "
            "--val_split none --batch_size 2 --device cpu --no-tensorboard",
            **where,
            backbone=flags.backbone,
            output=root / str(number),
        )
    checkpoints = tuple(root / str(number) / "last.pt" for number in range(len(NETWORKS)))
    run(
        "latency --device cpu --max_samples 2 --warm_up 1",
        **where,
        checkpoint=checkpoints,
        repeats=flags.repeats,
        threads=flags.threads,
        output=root / "latency",
    )
    latencies: list[dict[str, Any]] = json.loads((root / "latency/latency.json").read_text())[
        "latencies"
    ]
    return latencies


def _sides(latencies: Mapping[str, Mapping[str, Any]]) -> str:
    pixels, rows = latencies[PIXELS], []
    for name, latency in latencies.items():
        cells = []
        for side, aim in (("encode", ENCODE_AIM), ("decode", AIMS.get(name))):
            share = latency[side]["median"] / pixels[side]["median"]
            wanted = aim if name in AIMS else None
            aimed = "" if wanted is None else f" (aim {wanted:g})"
            cells += [f"{latency[side]['median']:.0f}", f"{share:.2f}{aimed}"]
        rows.append([name, *cells])
    header = ("network", "encode (ms)", "of pixels'", "decode + task (ms)", "of pixels'")
    return markdown(header, rows)


def _stages(latencies: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(
        dict.fromkeys(name for latency in latencies.values() for name in latency["stages"])
    )
    rows = [
        [
            name,
            *(
                f"{latency['stages'][n]['median']:.0f}" if n in latency["stages"] else "-"
                for n in names
            ),
        ]
        for name, latency in latencies.items()
    ]
    return markdown(("stage (ms)", *names), rows)


if __name__ == "__main__":
    sys.exit(main())
