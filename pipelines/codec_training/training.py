"""Training of CompressAI's scale hyperprior: its settings, loss, trainer and checkpoint."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent_store.codec.stock import ScaleHyperprior
from latent_store.console import MOST_SEED
from latent_store.errors import CheckpointError, LatentStoreError
from pipelines.codec_training import images
from pipelines.codec_training.images import EPOCH_STEPS, RandomCrops
from pipelines.scenes.sets import MOST_SCENES
from training.flags import Flags, flag, free_fields
from training.tasks.losses import Counts
from training.trainer.checkpoints import DIGEST, require_whole, write_payload
from training.trainer.job import TrainerConfig
from training.trainer.run_folder import RunFiles, RunState, require_same_config
from training.trainer.run_log import Meters, RunLog
from training.trainer.trainer import Trainer

CHANNELS_N, CHANNELS_M = 128, 192
TRANSFORMS = ("g_a", "g_s", "h_a", "h_s")
_ENTRIES = ("model", "optimizer", "training", "step", "spent")


@dataclass(frozen=True, kw_only=True)
class CodecTraining(Flags):
    """The settings of a codec's training: data, loss and schedule."""

    data: str = flag("'procedural' (generated scenes) or a folder of images", default="procedural")
    lmbda: float = flag(
        "weight of 255^2 * MSE against bits per pixel", default=0.0067, above_least=True
    )
    steps: int = flag("steps on the rate-distortion loss", default=10_000, free=True, least=1)
    batch_size: int = flag("crops a step", default=8, least=1)
    crop: int = flag("side of a crop in pixels", default=128, least=64)
    learning_rate: float = flag("of Adam, at the start", default=4e-4, free=True, above_least=True)
    aux_steps: int = flag(
        "bisections that bring the auxiliary loss to 0, at the end", default=40, free=True, least=1
    )
    seed: int = flag("of initial weights, crops and scenes", default=0, most=MOST_SEED)
    num_scenes: int = flag("generated scenes to train on", default=400, least=1, most=MOST_SCENES)
    time_limit_minutes: float = flag(
        "stop after so many minutes of steps, even before --steps; 0 = no limit",
        default=0.0,
        free=True,
    )
    compile: str = flag(
        "compile the transforms (a quarter faster after a minute); auto: from 500 steps on",
        default="auto",
        choices=("auto", "on", "off"),
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop % 64:
            raise LatentStoreError(
                f"--crop must be a multiple of 64 (the codec's stride), 64 or more, not {self.crop}"
            )

    def read_images(self) -> list[np.ndarray]:
        """Draws or reads the pictures to train on."""
        if self.data == "procedural":
            return images.procedural_images(self.num_scenes, self.seed)
        return images.folder_images(Path(self.data), self.crop)

    @property
    def compiles(self) -> bool:
        """True if the transforms are compiled.

        Eight crops of 128x128 on two cores took 0.84 s a step as they are, 0.77 s with channels
        last, 0.72 s compiled, 0.61 s with both.
        """
        if self.compile == "auto":
            return self.steps >= 500 and shutil.which(os.environ.get("CXX", "c++")) is not None
        return self.compile == "on"

    def trainer_config(self) -> TrainerConfig:
        """Returns the settings of the loop that trains."""
        return TrainerConfig(
            epochs=math.ceil(self.steps / EPOCH_STEPS),
            max_steps=self.steps,
            learning_rate=self.learning_rate,
            clip_norm=1.0,
            device="cpu",
            compile=self.compiles,
            checkpoint_minutes=1.0,
            tensorboard=False,
        )


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


class RateDistortion:
    """The rate-distortion loss of a codec, as the trainer minimises it.

    The codec's quantiles are left out, which bound the tables and nothing else.
    """

    score = unlabelled = ""

    def __init__(self, network: ScaleHyperprior, training: CodecTraining) -> None:
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

    def __init__(self, model: ScaleHyperprior, training: CodecTraining, files: RunFiles) -> None:
        crops = RandomCrops(
            training.read_images(), training.crop, training.batch_size, training.seed
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


def new_codec(seed: int) -> ScaleHyperprior:
    """Return a freshly initialised scale hyperprior, N = 128 and M = 192."""
    torch.manual_seed(seed)
    return ScaleHyperprior(CHANNELS_N, CHANNELS_M)


class TrainingCheckpoint(RunFiles):
    """A dict of "model", "optimizer", "training" (settings), "step" and "spent" (seconds).

    The log lies beside the file; with `overwrite` no notice is taken of a run that it holds.
    """

    def __init__(self, path: Path, training: CodecTraining, *, overwrite: bool = False) -> None:
        free = free_fields(CodecTraining)
        super().__init__(path, path.with_suffix(".jsonl"), config=asdict(training), free=free)
        self.overwrite = overwrite

    def holds_run(self) -> bool:
        """Says whether there is a run to go on with."""
        return super().holds_run() and not self.overwrite

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
            payload = torch.load(self.resume, weights_only=True)
            require_whole(payload, payload.pop(DIGEST, None), str(self.resume))
            return {name: payload[name] for name in _ENTRIES}
        except Exception as error:
            raise CheckpointError(
                f"{self.resume} is no usable training checkpoint ({type(error).__name__}); "
                "remove it and start anew"
            ) from error
