"""What training from a store saves: a step's wait for data, and encoding on the fly.

    python -m tests.benchmarks.training

Made streets, coded by the demo codec; DeepLab on ResNet-18, whole pictures. The same network is
trained from the store, whose latents lie in memory or are read anew each time, and from pictures
that are read and encoded for each step, as without a store. Means of all epochs but the first, one
thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import Number, make_parser, run_command
from latent_store.errors import LatentStoreError
from tests.benchmarks.commands import run, run_python
from tests.benchmarks.table import markdown

WAIT_AIM, EPOCH_AIM = 0.02, 3.0
WAYS = {
    "from the store, cached": "--cache_mb 4096 --workers 1",
    "from the store, read anew": "--cache_mb 0 --workers 1",
}
_ON_THE_FLY = """
import sys, time
from pathlib import Path
from statistics import median
from latent_store.codec import load_codec, pad_image
from latent_store.codec.pictures import image_to_tensor, read_image
codec = load_codec(demo=True)
files = sorted(Path(sys.argv[1]).rglob('*_leftImg8bit.png'))
times = []
for file in files[:12]:
    start = time.perf_counter()
    codec.encode(image_to_tensor(pad_image(read_image(file))))
    times.append(time.perf_counter() - start)
print(median(times[2:]))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.training", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.training", __doc__ or "")
    add = parser.add_argument
    add("--height", type=Number(int, 64), default=256, help="of pictures in pixels")
    add("--samples", type=Number(int, 12), default=32, help="pictures")
    add("--batch_size", type=Number(int, 1), default=4, help="pictures of a step")
    add("--steps", type=Number(int, 8), default=32, help="of each training")
    return parser


def _run(flags: argparse.Namespace) -> int:
    least = 2 * (flags.samples // flags.batch_size)
    if flags.steps < least:
        raise LatentStoreError(f"--steps must be {least} or more, two epochs, got {flags.steps}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, url = root / "scenes", root / "store.zarr"
        size = {"height": flags.height, "width": 2 * flags.height}
        run("generate-scenes --val 0", output=data, train=flags.samples, **size)
        run(
            "encode-to-store --dataset cityscapes --split train --demo_codec --samples_per_shard 8",
            data_root=data,
            store=url,
        )
        steps = {
            name: _step(root / str(n), url, way, flags)
            for n, (name, way) in enumerate(WAYS.items())
        }
        encode = float(run_python("-c", _ON_THE_FLY, str(data)).text) * flags.batch_size
    print(_table(steps, encode))
    return 0


def _step(output: Path, url: Path, way: str, flags: argparse.Namespace) -> tuple[float, float]:
    """Trains; returns a step's seconds, and which share of them waits for data."""
    run(
        f"train-from-store --selection none --init scratch --lambda_kd 0 --teacher none {way} "
        "--backbone resnet18 --crop 0 --val_split none --device cpu --no-tensorboard",
        store=url,
        dataset="cityscapes",
        batch_size=flags.batch_size,
        max_steps=flags.steps,
        output=output,
    )
    lines = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    first, *_, last = [line for line in lines if line["kind"] == "epoch"]
    seconds = last["seconds"] - first["seconds"]
    # Shares are of all that was until then; the first epoch fills the cache.
    waited = last["wait_share"] * last["seconds"] - first["wait_share"] * first["seconds"]
    return seconds / (last["step"] - first["step"]), waited / seconds


def _table(steps: dict[str, tuple[float, float]], encode: float) -> str:
    rows = []
    cached = steps[next(iter(steps))][0]
    for name, (seconds, wait) in steps.items():
        rows.append(
            (
                name,
                f"{1e3 * seconds:.0f}",
                f"{wait:.1%} (aim {WAIT_AIM:.0%})",
                f"{seconds / cached:.2f}",
            )
        )
    fly = cached + encode
    rows.append(
        (
            "encoded on the fly",
            f"{1e3 * fly:.0f}",
            f"{encode / fly:.1%}",
            f"{fly / cached:.2f} (aim {EPOCH_AIM:g} on a GPU)",
        )
    )
    return markdown(
        ("training", "a step (ms)", "of it waiting for data", "of the store's time"), rows
    )


if __name__ == "__main__":
    sys.exit(main())
