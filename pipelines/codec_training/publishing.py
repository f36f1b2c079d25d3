"""The codec as it is published: its quantiles, its weights in half precision, and its score."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latent_store.codec import stock
from latent_store.codec.pictures import image_to_tensor, psnr, tensor_to_image
from latent_store.console import progress
from latent_store.errors import CheckpointError
from latent_store.storage.local_files import write_atomically
from pipelines.codec_training.training import TRANSFORMS


@dataclass(frozen=True, kw_only=True)
class CodecScore:
    """Mean results of real coding: bits per pixel from the bytes, PSNR in dB of 8-bit pictures."""

    bpp: float
    psnr: float
    images: int


@torch.no_grad()
def fit_quantiles(model: stock.ScaleHyperprior, steps: int) -> float:
    """Fit the hyper-latent's quantiles, nothing else, in place; return the auxiliary loss.

    The quantiles bound the hyper-latent's entropy tables; nothing else depends on them, so they are
    fitted once, to the final densities. The auxiliary loss is a sum of one-dimensional distances,
    and the logits rise with their argument: bisection finds every root, where gradient steps need
    thousands.
    """
    bottleneck = model.entropy_bottleneck
    target = bottleneck.target.reshape(1, 1, 3)
    logits = partial(bottleneck._logits_cumulative, stop_gradient=True)

    low, high = -torch.ones_like(bottleneck.quantiles), torch.ones_like(bottleneck.quantiles)
    for _ in range(24):  # widen until the root is inside
        low = torch.where(logits(low) > target, 2 * low, low)
        high = torch.where(logits(high) < target, 2 * high, high)
    for _ in progress(range(steps), desc="fitting quantiles", unit="step"):
        middle = (low + high) / 2
        below = logits(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    bottleneck.quantiles.copy_((low + high) / 2)
    return float(model.aux_loss())


def finished_state(model: stock.ScaleHyperprior) -> dict[str, Tensor]:
    """Return the weights as they are published, entropy tables included.

    Convolution and GDN parameters are float16. Buffers stay float32 (int32 for tables): a `bound`
    or `pedestal` rounded to half precision turns likelihoods into zeros. The tables are computed by
    a model that has already loaded the rounded parameters, the one that every user will have.
    """
    halves = {name for name, _ in model.named_parameters() if name.partition(".")[0] in TRANSFORMS}

    def publish(source: nn.Module) -> dict[str, Tensor]:
        return {
            name: (value.half() if name in halves else value).detach().clone().contiguous()
            for name, value in source.state_dict().items()
        }

    rounded = stock.ScaleHyperprior(model.N, model.M)
    rounded.load_state_dict(publish(model))
    rounded.eval().update(force=True)
    state = publish(rounded)
    broken = [name for name, value in state.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise CheckpointError(
            f"parameter {broken[0]} is not finite in half precision; "
            "train with a lower --learning_rate"
        )
    return state


@torch.no_grad()
def evaluate_codec(model: stock.ScaleHyperprior, images: Sequence[np.ndarray]) -> CodecScore:
    """Compress and decompress pictures uint8 [H, W, 3], sides multiples of 64; count real bytes."""
    model = model.eval()
    rates, psnrs = [], []
    for image in progress(images, desc="coding held-out images", unit="image"):
        coded = model.compress(image_to_tensor(image))
        x_hat_BCHW = model.decompress(coded["strings"], coded["shape"])["x_hat"]
        size = sum(len(string) for group in coded["strings"] for string in group)
        rates.append(8 * size / image[..., 0].size)
        psnrs.append(psnr(tensor_to_image(x_hat_BCHW)[0], image))
    return CodecScore(bpp=float(np.mean(rates)), psnr=float(np.mean(psnrs)), images=len(images))


def write_codec(state: dict[str, Tensor], output: Path) -> str:
    """Write a state dict atomically; return the file's sha256 in hexadecimal."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()
