"""The settings of a codec's training."""

import math
import os
import shutil
from dataclasses import dataclass

from latent_store.console import MOST_SEED
from latent_store.errors import LatentStoreError
from pipelines.scenes.sets import MOST_SCENES
from training.flags import Flags, flag
from training.trainer.job import TrainerConfig

EPOCH_STEPS = 100
"""Steps in an epoch, of which means are logged: crops are drawn without an end."""


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
