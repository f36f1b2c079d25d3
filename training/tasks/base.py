"""The interface of a task: what is learned of a picture, how well that went, how it is shown.

Nothing outside of this folder knows which tasks there are. What a network says of a picture and
what is there are opaque to everybody else; both are here called

    prediction    made of the tail's outputs, at the original picture's size
    truth         what the task's annotations say of the same picture
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from latent_store.errors import LatentStoreError
from training.data.source import Annotations
from training.networks.network_config import NetworkConfig
from training.networks.networks import Network
from training.networks.stages import Stem
from training.tasks.losses import TaskLoss
from training.tasks.metric import Metric

Panel = tuple[str, np.ndarray]
"""Title and picture, uint8 RGB [H, W, 3]."""


class Task(ABC):
    """A task that networks learn; one object a task, found by `training.tasks.registry`.

    Attributes:
        name: In checkpoints, points and records, and of the flag `--task`.
        title, architecture, pipeline_tag: What a model card calls it, its network, and its kind of
            pipeline on the hub.
        command, purpose: The command for new pictures, and what it does with one.
        teacher_prefix: Of the ids of teachers' features in a store.
        in_paper: Whether the paper measures networks for it.
        fields: Of `NetworkConfig`, those that only this task's networks know.
        tail_fields: Those that two networks must share to exchange their tails, beside the backbone
            and the classes.
        why_not_one_image: Why batch norm cannot be trained on one image a batch; None if it can.
        annotations: What is read of a split, and how it is cropped.
        loss: Its class; both arguments of `TaskLoss` are given.
        metric: Its scores.
        nothing, wanted: What it means that nothing counts in {images}; what a split must have.
        score_note, pictures_note: How the report explains score and pictures.
        kept: Where predictions are kept beside a point's file, made of the {row}.
    """

    name: str
    title: str
    architecture: str
    pipeline_tag: str
    command: str
    purpose: str
    teacher_prefix: str
    in_paper: bool = False
    fields: tuple[str, ...] = ()
    tail_fields: tuple[str, ...] = ()
    why_not_one_image: str | None = None
    annotations: type[Annotations]
    loss: type[TaskLoss]
    metric: Metric
    nothing: str
    wanted: str
    score_note: str
    pictures_note: str
    kept: str

    # -- networks ----------------------------------------------------------------------------

    @abstractmethod
    def build_parts(self, config: NetworkConfig) -> tuple[Stem, nn.Module]:
        """Returns a fresh backbone's stem, and the tail that makes this task's outputs."""

    def countable(self, network: Network) -> nn.Module:
        """Returns what multiply-adds are counted of, without anything being computed."""
        return network

    def compile(self, network: Network) -> Callable[..., dict[str, Any]]:
        """Returns what is to be called in the network's place, compiled as far as it can be."""
        compiled: Callable[..., dict[str, Any]] = torch.compile(network)
        return compiled

    def tail_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the tail needs besides features in evaluation."""
        return {}

    def training_inputs(self, batch: Mapping[str, Any], seed: int, epoch: int) -> dict[str, Any]:
        """Returns what the tail needs besides features in training."""
        return {}

    @abstractmethod
    def predictions(
        self, outputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> list[Any]:
        """Returns what a network in evaluation says of each image, at original height and width."""

    def confidences(
        self, outputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> list[float]:
        """Returns how sure a network is of each image, from 0 to 1.

        Raises:
            LatentStoreError: Such a network does not say it.
        """
        raise LatentStoreError(
            f"--stop_confidence asks a network how sure it is of a picture, which networks for "
            f"{self.name} do not say: leave it out"
        )

    def require_confidences(self) -> None:
        """Refuses, before anything is done, what would ask for `confidences` that there are not.

        Raises:
            LatentStoreError: See `confidences`.
        """
        if type(self).confidences is Task.confidences:
            self.confidences({}, ())

    # -- pictures and files ------------------------------------------------------------------

    @abstractmethod
    def truth_panels(
        self, truth: Any, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> list[Panel]:
        """Returns the picture and what is there, for a strip of panels."""

    @abstractmethod
    def draw(
        self, prediction: Any, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> np.ndarray:
        """Returns a prediction as a picture of the same size, uint8 [H, W, 3]."""

    @abstractmethod
    def write(
        self, base: Path, prediction: Any, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> None:
        """Writes the files of the task's command; their names begin with that of `base`."""

    @abstractmethod
    def keep(self, path: Path, prediction: Any) -> None:
        """Writes a prediction to one file."""

    @abstractmethod
    def read_kept(self, path: Path) -> Any:
        """Reads what `keep` wrote.

        Raises:
            LatentStoreError: The file is damaged.
        """
