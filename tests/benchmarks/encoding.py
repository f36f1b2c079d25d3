"""What encoding a picture costs: a loop around stock CompressAI against this package.

    python -m tests.benchmarks.encoding --images photos/*.png --codec q2.pth.tar

The same files, scaled to each size, are read, padded and coded by both in turns, in one process.
The stock loop calls `compress`, and checks nothing. Ours is what `encode-to-store` does with a
picture: streams that are decoded again, the ledger, the pooled statistics, and by default PSNR of
one picture in 16, whose share is counted; writing shards is left out of both. Seconds are the
processor's, user's and system's, of all threads (a shared machine's clock says little); medians.
By the clock, of all cores, the stock loop has all of torch's threads for each picture in turn, and
ours has a picture on each core, as a worker has. With `--device cuda` both are on the card, ours
with two pictures under way, and a row by the clock is of one core without it. The coder's rows are
of the last picture's ŷ, its stock row without any check.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latent_store.batches.prefetch import Prefetcher
from latent_store.codec import Codec, decode_y, encode_scalable, encode_y, load_codec, pad_image
from latent_store.codec.numerics import choose_device, torch_threads
from latent_store.codec.pictures import image_to_tensor, read_image
from latent_store.codec.stock import ScaleHyperprior
from latent_store.console import Number, make_parser, run_command
from pipelines.jobs.encoding import encode_latents
from pipelines.jobs.job_flags import MOST_AT_ONCE, MOST_ON_CARD, PSNR_ROWS
from pipelines.jobs.worker_processes import usable_cores
from pipelines.scenes.scene import render_scene
from tests.benchmarks.table import markdown

SIZES = ("360x480", "1024x2048")
CUTS = (16, 32, 64, 128)
STOCK, ALL, NONE = "stock CompressAI loop", "ours, `--psnr all`", "ours, `--psnr none`"
DEFAULT, CORE = "ours, default flags", "ours, `--psnr none`, one core"
HEADER = ("pixels", "what", "CPU-s a picture", "pictures against the stock loop")
CLOCK_HEADER = ("pixels", "what", "s a picture, by the clock", "against the stock loop")
CODER_HEADER = ("pixels", "what", "million symbols a CPU-s")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    return run_command("benchmarks.encoding", lambda: _run(make_flags().parse_args(argv)))


def make_flags() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = make_parser("python -m tests.benchmarks.encoding", __doc__ or "")
    add = parser.add_argument
    add("--images", type=Path, nargs="+", help="pictures' files (default: a made street)")
    add("--codec", type=Path, help="checkpoint (default: the demo codec)")
    add("--sizes", nargs="+", default=SIZES, help="HEIGHTxWIDTH of pictures in pixels")
    add("--repeats", type=Number(int, 1), default=3, help="of each picture")
    add("--threads", type=Number(int, 1), default=1, help="of torch")
    add("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    return parser


def _run(flags: argparse.Namespace) -> int:
    source: dict[str, Any] = {"checkpoint": flags.codec} if flags.codec else {"demo": True}
    here, codec = load_codec(**source), load_codec(**source).to(choose_device(flags.device))
    pictures, clock, coder = [], [], []
    with torch_threads(flags.threads), tempfile.TemporaryDirectory() as folder:
        for size in flags.sizes:
            files = _scaled(flags.images or [_street(Path(folder))], size, Path(folder))
            seconds = _medians(_picture_ways(codec, files), flags.repeats * len(files))
            pictures += _picture_lines(size, seconds)
            clock += _clock_lines(codec, here, files, size, flags.repeats)
            ways, symbols = _coder_ways(here, files[-1])
            seconds = _medians(ways, flags.repeats)
            coder += [(size, name, f"{symbols / s / 1e6:.1f}") for name, s in seconds.items()]
    tables = ((HEADER, pictures), (CLOCK_HEADER, clock), (CODER_HEADER, coder))
    print(*(markdown(header, lines) for header, lines in tables), sep="\n\n")
    return 0


def _street(folder: Path) -> Path:
    """Writes a made street, and returns its file."""
    file = folder / "street.png"
    if not file.exists():
        Image.fromarray(render_scene(0, 0, 1024, 2048).image_HWC).save(file)
    return file


def _scaled(images: Sequence[Path], size: str, folder: Path) -> list[Path]:
    """Writes the pictures as PNG of a size "HEIGHTxWIDTH"."""
    height, width = map(int, size.split("x"))
    files = [folder / f"{size}-{number}.png" for number in range(len(images))]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(read_image(image)).resize((width, height)).save(file)
    return files


def _medians(ways: Mapping[str, Callable[[int], object]], calls: int) -> dict[str, float]:
    """Returns the median CPU seconds of each way, which take turns, after one call to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for call in range(-1, calls):
        for name, way in ways.items():
            start = time.process_time()
            way(call)
            if call >= 0:
                seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _picture_ways(codec: Codec, files: Sequence[Path]) -> dict[str, Callable[[int], object]]:
    stock = _stock_model(codec).to(codec.device)

    def loop(call: int) -> object:
        x_BCHW = image_to_tensor(pad_image(read_image(files[call % len(files)]))).contiguous()
        with torch.no_grad():
            return stock.compress(x_BCHW.to(codec.device))

    def ours(call: int, *, measure_psnr: bool) -> object:
        image_HWC = read_image(files[call % len(files)])
        return encode_latents(codec, image_HWC, measure_psnr=measure_psnr)

    return {
        STOCK: loop,
        NONE: lambda call: ours(call, measure_psnr=False),
        ALL: lambda call: ours(call, measure_psnr=True),
    }


def _picture_lines(size: str, seconds: dict[str, float]) -> list[tuple[str, ...]]:
    share = (seconds[ALL] - seconds[NONE]) / PSNR_ROWS["sample"]
    seconds = {STOCK: seconds[STOCK], DEFAULT: seconds[NONE] + share} | seconds
    return [
        (size, name, f"{value:.3g}", f"{seconds[STOCK] / value:.2f} ×")
        for name, value in seconds.items()
    ]


def _clock_lines(
    codec: Codec, here: Codec, files: Sequence[Path], size: str, repeats: int
) -> list[tuple[str, ...]]:
    """Times all cores, or a card and, `here`, one core: medians of runs that take turns, each of
    two pictures for each that may be under way."""
    on_card = codec.device.type != "cpu"
    cores = MOST_ON_CARD if on_card else min(usable_cores(), MOST_AT_ONCE)
    calls, ways = 2 * cores, _picture_ways(codec, files)
    threads = {STOCK: usable_cores(), NONE: 1, ALL: 1}
    if on_card:
        threads[CORE] = 1
        ways[CORE] = _picture_ways(here, files)[NONE]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(-1, -(-repeats // 2)):
        for name, way in ways.items():
            workers = 0 if name in (STOCK, CORE) else cores
            with torch_threads(threads[name]):
                start = time.perf_counter()
                with contextlib.closing(Prefetcher(way, workers=workers)) as ahead:
                    for _ in ahead.map((call,) for call in range(calls)):
                        pass
            if run >= 0:
                seconds[name].append((time.perf_counter() - start) / calls)
    return _picture_lines(
        size, {name: float(np.median(values)) for name, values in seconds.items()}
    )


def _coder_ways(codec: Codec, file: Path) -> tuple[dict[str, Callable[[int], object]], int]:
    """Returns the ways to code a picture's ŷ, and its number of symbols."""
    latents = codec.encode(image_to_tensor(pad_image(read_image(file))))
    symbols, indexes = latents.symbols_BCHW[0].numpy(), latents.indexes_BCHW[0].numpy()
    tables, order = codec.tables, np.random.default_rng(0).permutation(len(symbols)).tolist()
    cuts = (*(cut for cut in CUTS if cut < len(order)), len(order))
    data, stock = encode_y(tables, symbols, indexes), _stock_model(codec).gaussian_conditional
    y_BCHW, wide = latents.symbols_BCHW.float(), latents.indexes_BCHW.int()
    return {
        "stock, coding": lambda _: stock.compress(y_BCHW, wide),
        "coding": lambda _: encode_y(tables, symbols, indexes),
        "stock, decoding": lambda _: stock.decompress([data], wide),
        "decoding": lambda _: decode_y(tables, data, indexes),
        "coding, verified": lambda _: encode_y(tables, symbols, indexes, verify=True),
        f"scalable, {len(cuts)} cuts": lambda _: encode_scalable(
            tables, symbols, indexes, order, cuts
        ),
        f"scalable, {len(cuts)} cuts, verified": lambda _: encode_scalable(
            tables, symbols, indexes, order, cuts, verify=True
        ),
    }, symbols.size


def _stock_model(codec: Codec) -> ScaleHyperprior:
    state = torch.load(io.BytesIO(codec.checkpoint_bytes), weights_only=True)
    return type(codec.model).from_state_dict(state).eval()


if __name__ == "__main__":
    sys.exit(main())
