"""Training of CompressAI's scale hyperprior: loss, loop, checkpoints, the weights as published."""

import hashlib
import io
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latent_store.codec.stock import ScaleHyperprior
from latent_store.console import progress
from latent_store.errors import CheckpointError, JobFailedError, LatentStoreError
from latent_store.storage.location import write_atomically
from pipelines.codec_training.images import RandomCrops
from training.flags import flag

CHANNELS_N, CHANNELS_M = 128, 192
TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")

_CHECKPOINT_SECONDS = 60.0


class TrainCodecError(LatentStoreError):
    """The codec cannot be trained as asked."""


@dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """The settings of a codec's training: data, loss and schedule."""

    data: str = flag("'procedural' (generated scenes) or a folder of images", default="procedural")
    lmbda: float = flag("weight of 255^2 * MSE against bits per pixel", default=0.0067)
    steps: int = flag("steps on the rate-distortion loss", default=10_000)
    batch_size: int = flag("crops a step", default=8)
    crop: int = flag("side of a crop in pixels", default=128)
    learning_rate: float = flag("of Adam, at the start", default=4e-4)
    aux_steps: int = flag("bisections that bring the auxiliary loss to 0, at the end", default=40)
    seed: int = flag("of initial weights, crops and scenes", default=0)
    num_scenes: int = flag("generated scenes to train on", default=400)
    time_limit_minutes: float = flag(
        "stop after so many minutes of steps, even before --steps; 0 = no limit", default=0.0
    )
    compile: str = flag(
        "compile the transforms (a quarter faster after a minute); auto: from 500 steps on",
        default="auto",
        choices=("auto", "on", "off"),
    )

    def __post_init__(self) -> None:
        positive = ("lmbda", "steps", "batch_size", "learning_rate", "aux_steps", "num_scenes")
        for name in positive:
            if getattr(self, name) <= 0:
                raise TrainCodecError(f"--{name} must be above 0, not {getattr(self, name)}")
        if self.crop < 64 or self.crop % 64:
            raise TrainCodecError(
                f"--crop must be a multiple of 64 (the codec's stride), 64 or more, not {self.crop}"
            )
        if self.seed < 0 or self.time_limit_minutes < 0:
            raise TrainCodecError(
                "--seed and --time_limit_minutes must be 0 or more, "
                f"not {self.seed} and {self.time_limit_minutes}"
            )


@dataclass(frozen=True, kw_only=True)
class CodecScore:
    """Mean results of real coding: bits per pixel from the bytes, PSNR in dB of 8-bit pictures."""

    bpp: float
    psnr: float
    images: int


def rate_distortion(
    model: ScaleHyperprior, parts: dict[str, Callable[[Tensor], Tensor]], x: Tensor, lmbda: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, bits per pixel, mean squared error) of one batch [B, 3, H, W] in [0, 1]."""
    y = parts["g_a"](x)
    z_hat, z_likelihoods = model.entropy_bottleneck(parts["h_a"](torch.abs(y)))
    y_hat, y_likelihoods = model.gaussian_conditional(y, parts["h_s"](z_hat))
    mse = torch.mean((parts["g_s"](y_hat) - x) ** 2)
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    bpp = -(torch.log2(y_likelihoods).sum() + torch.log2(z_likelihoods).sum()) / pixels
    return lmbda * 255**2 * mse + bpp, bpp, mse


def _transforms(model: ScaleHyperprior, training: CodecTraining) -> dict[str, Callable]:
    """Return the four transforms, compiled where that pays.

    Eight crops of 128x128 on two cores took 0.84 s a step as they are, 0.77 s with channels last,
    0.72 s compiled, 0.61 s with both.
    """
    able = shutil.which(os.environ.get("CXX", "c++")) is not None
    wanted = training.compile == "on" or (
        training.compile == "auto" and able and training.steps >= 500
    )
    parts: dict[str, Callable] = {name: getattr(model, name) for name in TRANSFORMS}
    return {k: torch.compile(part, dynamic=False) for k, part in parts.items()} if wanted else parts


def new_codec(seed: int) -> ScaleHyperprior:
    """Return a freshly initialised scale hyperprior, N = 128 and M = 192."""
    torch.manual_seed(seed)
    return ScaleHyperprior(CHANNELS_N, CHANNELS_M)


def train(
    model: ScaleHyperprior,
    crops: RandomCrops,
    training: CodecTraining,
    checkpoint: Path,
    *,
    resume: bool,
) -> Iterator[dict[str, float]]:
    """Train on the rate-distortion loss in place; yield each step's numbers.

    The learning rate follows a cosine over the steps or over the time limit, whichever is nearer
    its end, so that a run stopped by the clock has cooled down too.

    Args:
        model: Trained in place.
        crops: Where batches come from.
        training: Loss weight, steps, learning rate and so on.
        checkpoint: File for resuming, replaced atomically about every minute and at the end.
        resume: Whether to start from that file.

    Raises:
        CheckpointError: If that file cannot be resumed from.
        JobFailedError: If the loss is no longer finite.
    """
    main = [p for name, p in model.named_parameters() if not name.endswith(".quantiles")]
    optimizer = torch.optim.Adam(main, lr=training.learning_rate, fused=True)
    step, spent = load_checkpoint(checkpoint, model, training, optimizer) if resume else (0, 0.0)
    model.train().to(memory_format=torch.channels_last)
    parts = _transforms(model, training)
    limit = training.time_limit_minutes * 60 or math.inf
    began = saved = time.monotonic()
    while step < training.steps and spent + time.monotonic() - began < limit:
        done = max(step / training.steps, (spent + time.monotonic() - began) / limit)
        rate = training.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        optimizer.param_groups[0]["lr"] = rate
        # The noise that stands in for rounding is a function of the step, as the crops are.
        torch.manual_seed(training.seed * 1_000_003 + step)
        loss, bpp, mse = rate_distortion(model, parts, crops.batch(step), training.lmbda)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise JobFailedError(
                f"the loss is {value} at step {step}; --resume with a lower "
                f"--learning_rate than {training.learning_rate:g}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(main, 1.0)
        optimizer.step()
        step += 1
        if time.monotonic() - saved > _CHECKPOINT_SECONDS:
            save_checkpoint(
                checkpoint, model, training, optimizer, step, spent + time.monotonic() - began
            )
            saved = time.monotonic()
        psnr = -10 * math.log10(max(float(mse.detach()), 1e-10))
        yield {
            "step": step,
            "loss": value,
            "bpp": float(bpp.detach()),
            "psnr": psnr,
            "done": done,
        }
    save_checkpoint(checkpoint, model, training, optimizer, step, spent + time.monotonic() - began)


def save_checkpoint(
    path: Path,
    model: ScaleHyperprior,
    training: CodecTraining,
    optimizer: torch.optim.Optimizer,
    step: int,
    spent: float,
) -> None:
    """Write everything that a resumed run needs; spent is seconds of training so far."""
    buffer = io.BytesIO()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "training": asdict(training),
        "step": step,
        "spent": spent,
    }
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(
    path: Path,
    model: ScaleHyperprior,
    training: CodecTraining,
    optimizer: torch.optim.Optimizer | None = None,
) -> tuple[int, float]:
    """Load a training checkpoint in place; return its step and the seconds of training so far.

    Raises:
        CheckpointError: If the file is missing, damaged, or of another kind of run.
    """
    if not path.is_file():
        raise CheckpointError(
            f"there is no training checkpoint {path}; start without --resume and --finalize_only"
        )
    try:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
        before, step, spent = state["training"], int(state["step"]), float(state["spent"])
    except Exception as error:
        raise CheckpointError(
            f"{path} is no usable training checkpoint ({type(error).__name__}); "
            "remove it and start anew"
        ) from error
    if optimizer is not None:
        for name in ("data", "lmbda", "batch_size", "crop", "seed", "num_scenes"):
            if before[name] != getattr(training, name):
                raise CheckpointError(
                    f"{path} was trained with --{name} {before[name]}, "
                    f"not {getattr(training, name)}; resume with the same value or start anew"
                )
    return step, spent


@torch.no_grad()
def fit_quantiles(model: ScaleHyperprior, steps: int) -> float:
    """Fit the hyper-latent's quantiles, nothing else, in place; return the auxiliary loss.

    The quantiles bound the hyper-latent's entropy tables; nothing else depends on them, so they are
    fitted once, to the final densities. The auxiliary loss is a sum of one-dimensional distances,
    and the logits rise with their argument: bisection finds every root, where gradient steps need
    thousands.
    """
    bottleneck = model.entropy_bottleneck
    target = bottleneck.target.reshape(1, 1, 3)

    def logits(x: Tensor) -> Tensor:
        return bottleneck._logits_cumulative(x, stop_gradient=True)

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


def finished_state(model: ScaleHyperprior) -> dict[str, Tensor]:
    """Return the weights as they are published, entropy tables included.

    Convolution and GDN parameters are float16. Buffers stay float32 (int32 for tables): a `bound`
    or `pedestal` rounded to half precision turns likelihoods into zeros. The tables are computed by
    a model that has already loaded the rounded parameters, the one that every user will have.
    """
    halves = {
        name for name, _ in model.named_parameters() if name.split(".", maxsplit=1)[0] in TRANSFORMS
    }

    def publish(source: nn.Module) -> dict[str, Tensor]:
        return {
            name: (value.half() if name in halves else value).detach().clone().contiguous()
            for name, value in source.state_dict().items()
        }

    rounded = ScaleHyperprior(model.N, model.M)
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
def evaluate_codec(model: ScaleHyperprior, images: Sequence[np.ndarray]) -> CodecScore:
    """Compress and decompress pictures uint8 [H, W, 3], sides multiples of 64; count real bytes."""
    model = model.eval()
    rates, psnrs = [], []
    for image in progress(images, desc="coding held-out images", unit="image"):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        coded = model.compress(x)
        x_hat = model.decompress(coded["strings"], coded["shape"])["x_hat"]
        size = sum(len(string) for group in coded["strings"] for string in group)
        error = (x_hat.clamp(0, 1) * 255).round() - x * 255
        rates.append(8 * size / (image.shape[0] * image.shape[1]))
        psnrs.append(10 * math.log10(255**2 / max(float((error**2).mean()), 1e-9)))
    return CodecScore(bpp=float(np.mean(rates)), psnr=float(np.mean(psnrs)), images=len(images))


def write_codec(state: dict[str, Tensor], output: Path) -> str:
    """Write a state dict atomically; return the file's sha256 in hexadecimal."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()
