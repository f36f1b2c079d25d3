"""Training of CompressAI's scale hyperprior: its loss, trainer and checkpoint."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent_store.codec import stock
from latent_store.errors import CheckpointError
from pipelines.codec_training import images
from pipelines.codec_training.config import EPOCH_STEPS, CodecTraining
from pipelines.codec_training.images import RandomCrops
from training.flags import free_fields
from training.tasks.losses import Counts
from training.trainer.checkpoints import DIGEST, require_whole, unpack, write_payload
from training.trainer.run_folder import RunFiles, RunState, require_same_config
from training.trainer.run_log import Meters, RunLog
from training.trainer.trainer import Trainer

CHANNELS_N, CHANNELS_M = 128, 192
TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")
_ENTRIES = ("model", "optimizer", "training", "step", "spent")


def rate_distortion(
    model: stock.ScaleHyperprior,
    parts: dict[str, Callable[[Tensor], Tensor]],
    x: Tensor,
    lmbda: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, bits per pixel, mean squared error) of one batch [B, 3, H, W] in [0, 1]."""
    y = parts["g_a"](x)
    z_hat, z_likelihoods = model.entropy_bottleneck(parts["h_a"](torch.abs(y)))
    y_hat, y_likelihoods = model.gaussian_conditional(y, parts["h_s"](z_hat))
    mse = torch.mean((parts["g_s"](y_hat) - x) ** 2)
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    bpp = -(torch.log2(y_likelihoods).sum() + torch.log2(z_likelihoods).sum()) / pixels
    return lmbda * 255**2 * mse + bpp, bpp, mse


def read_images(training: CodecTraining) -> list[np.ndarray]:
    """Draws or reads the pictures to train on."""
    if training.data == "procedural":
        return images.procedural_images(training.num_scenes, training.seed)
    return images.folder_images(Path(training.data), training.crop)


class RateDistortion:
    """The rate-distortion loss of a codec, as the trainer minimises it.

    The codec's quantiles are left out, which bound the tables and nothing else.
    """

    score = unlabelled = ""
    rate_shares: Mapping[str, float] = types.MappingProxyType({})
    settles = False

    def __init__(self, network: stock.ScaleHyperprior, training: CodecTraining) -> None:
        network.entropy_bottleneck.quantiles.requires_grad = False
        self.network, self.training = network, training
        self.transforms: dict[str, Callable[[Tensor], Tensor]] = {
            name: getattr(network, name) for name in TRANSFORMS
        }

    def __call__(self, batch: Mapping[str, Any], counts: Counts, epoch: int) -> dict[str, Tensor]:
        """Returns "loss", "bpp", "mse" and "psnr" of a batch of `RandomCrops`."""
        # The noise that stands in for rounding is a function of the step, as the crops are.
        torch.manual_seed(self.training.seed * 1_000_003 + batch["step"])
        lmbda = self.training.lmbda
        loss, bpp, mse = rate_distortion(self.network, self.transforms, batch["x_BCHW"], lmbda)
        psnr = -10 * torch.log10(mse.detach().clamp_min(1e-10))
        return {"loss": loss, "bpp": bpp, "mse": mse, "psnr": psnr}

    def count(self, batch: Mapping[str, Any]) -> Counts:
        """Returns the pixels and pictures; the loss is a mean already."""
        x_BCHW = batch["x_BCHW"]
        return Counts(labels=x_BCHW[:, 0].numel(), samples=len(x_BCHW))

    def compile_network(self) -> None:
        """Compiles the four transforms."""
        compiled = {k: torch.compile(part, dynamic=False) for k, part in self.transforms.items()}
        self.transforms = compiled

    def anneal(self, progress: float) -> None:
        """Changes nothing over a run."""

    def settle(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Leaves the codec as it is."""


class CodecTrainer(Trainer):
    """Trains a codec in place.

    The learning rate follows a cosine over the steps or over the time limit, whichever is nearer
    its end, so that a run stopped by the clock has cooled down too.
    """

    remedy = "go on with --resume and a lower --learning_rate"

    def __init__(
        self, model: stock.ScaleHyperprior, training: CodecTraining, files: RunFiles
    ) -> None:
        crops = RandomCrops(
            read_images(training), training.crop, training.batch_size, training.seed
        )
        super().__init__(RateDistortion(model, training), crops, training.trainer_config(), files)
        self.limit = training.time_limit_minutes * 60 or math.inf

    @property
    def progress(self) -> float:
        """The share of the steps, or of the time, that is done."""
        seconds = self.state.seconds + self.clock.since_lap
        return max(super().progress, seconds / self.limit)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        cosine = (1 + math.cos(math.pi * self.progress)) / 2
        return self.config.learning_rate * (0.01 + 0.99 * cosine)

    def end_epoch(self, log: RunLog) -> dict[str, float]:
        """Prints the epoch's means too."""
        means = super().end_epoch(log)
        numbers = " ".join(f"{name} {means[name]:.3f}" for name in ("loss", "bpp", "psnr"))
        print(f"step {self.state.step} ({self.progress:.0%}) {numbers}", flush=True)
        return means


def new_codec(seed: int) -> stock.ScaleHyperprior:
    """Return a freshly initialised scale hyperprior, N = 128 and M = 192."""
    torch.manual_seed(seed)
    return stock.ScaleHyperprior(CHANNELS_N, CHANNELS_M)


class TrainingCheckpoint(RunFiles):
    """A dict of "model", "optimizer", "training" (settings), "step" and "spent" (seconds).

    The log lies beside the file; with `overwrite` no notice is taken of a run that it holds.
    """

    anew = "--overwrite"

    def __init__(self, path: Path, training: CodecTraining, *, overwrite: bool = False) -> None:
        free = free_fields(CodecTraining)
        super().__init__(path, path.with_suffix(".jsonl"), config=asdict(training), free=free)
        self.overwrite = overwrite

    def holds_run(self) -> bool:
        """Says whether there is a run to go on with."""
        return super().holds_run() and not self.overwrite

    def _left_behind(self) -> list[str]:
        return [] if self.overwrite else super()._left_behind()

    def save(self, network: Any, state: RunState, parts: Mapping[str, Any]) -> None:
        """Replaces the file."""
        values = (parts["network"], parts["optimizer"], self.config, state.step, state.seconds)
        write_payload(self.resume, dict(zip(_ENTRIES, values, strict=True)))

    def load(self) -> dict[str, Any]:
        """Returns the parts that there are: means of the epoch under way begin anew."""
        payload = self.read()
        require_same_config(payload["training"], self.config, self.free)
        epoch, position = divmod(payload["step"], EPOCH_STEPS)
        return {
            "state": {"step": payload["step"], "epoch": epoch, "seconds": payload["spent"]},
            "network": payload["model"],
            "optimizer": payload["optimizer"],
            "loader": {"epoch": epoch, "position": position, "settings": {}},
            "meters": Meters().state_dict(),
            "rng": [],
        }

    def read(self) -> dict[str, Any]:
        """Returns the file's dict, whatever its settings.

        Raises:
            CheckpointError: If the file is missing or damaged.
        """
        if not self.resume.is_file():
            raise CheckpointError(
                f"there is no training checkpoint {self.resume}; start without --resume and "
                "--finalize_only"
            )
        try:
            payload = unpack(self.resume.read_bytes(), str(self.resume))
            require_whole(payload, payload.pop(DIGEST, None), str(self.resume))
            return {name: payload[name] for name in _ENTRIES}
        except Exception as error:
            raise CheckpointError(
                f"{self.resume} is no usable training checkpoint ({type(error).__name__}); "
                "remove it and start anew"
            ) from error
