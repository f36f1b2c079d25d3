"""Jobs of a tenth of a second: three pictures of 64 x 64, a codec of 8 and 24 channels."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latent_store import cli
from pipelines import encode, frequency, reorder
from tests.latent_store.codec.made_codec import make_model, save
from tests.latent_store.made_store import LOUDER
from tests.pipelines.kills import Job

PICTURES = 3
NAME = "cityscapes/train"
SPLIT = ("--dataset", "cityscapes", "--split", "train")


def make_inputs(root: Path, architecture: str, pictures: int = PICTURES) -> None:
    """Writes a data root and the checkpoint of a codec of that kind into a folder."""
    rng = np.random.default_rng(5)
    for kind in ("leftImg8bit", "gtFine"):
        (root / f"data/{kind}/train/aa").mkdir(parents=True)
    for number in range(pictures):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(picture_of(root, number))
        labels = Image.fromarray(rng.integers(0, 34, (64, 64)).astype(np.uint8))
        labels.save(root / f"data/gtFine/train/aa/aa_{number:06d}_000019_gtFine_labelIds.png")
    model = make_model(8, 24, architecture)
    with torch.no_grad():  # Fresh weights alone round everything to 0.
        model.g_a[-1].weight.mul_(LOUDER)
        model.h_a[-1].weight.mul_(LOUDER)
    (root / "codec.pth.tar").write_bytes(save(model.state_dict()))


def in_turn(
    name: str, shards: Sequence[int], work: Callable[[int], Any], *_: object, **__: object
) -> None:
    """Runs a job's elements one after another."""
    for shard in shards:
        work(shard)


def picture_of(inputs: Path, number: int) -> Path:
    """Returns the path of a picture."""
    return inputs / f"data/leftImg8bit/train/aa/aa_{number:06d}_000019_leftImg8bit.png"


def run(main: Callable[[list[str]], int], *args: object) -> None:
    """Runs a command that must end well."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main([str(arg) for arg in args])
    assert status == 0, said.getvalue()


def encode_args(inputs: Path, url: Path, *more: str) -> list[str]:
    """Returns the arguments that encode the pictures, one a shard."""
    given = [
        "--data_root",
        str(inputs / "data"),
        "--codec_checkpoint",
        str(inputs / "codec.pth.tar"),
    ]
    flags = ["--samples_per_shard", "1", "--threads", "1", "--psnr", "none", *more]
    return ["--store", str(url), *SPLIT, *given, *flags]


def encoding(inputs: Path, *more: str) -> Job:
    """Returns the job that encodes the pictures."""
    return lambda url: run(encode.main, *encode_args(inputs, url, *more))


def ranking(*more: str) -> Job:
    """Returns the job that ranks the channels, at random."""
    flags = ("--method", "random", "--ranking", "r", "--keep", "8", *more)
    return lambda url: run(frequency.main, "--store", url, *SPLIT, *flags)


def reordering(*more: str) -> Job:
    """Returns the job that reorders the latents."""
    return lambda url: run(reorder.main, "--store", url, *SPLIT, "--ranking", "r", *more)


def closing(url: Path) -> None:
    """Closes what is there."""
    run(cli.main, "finalize", url)
