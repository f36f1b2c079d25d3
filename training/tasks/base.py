"""The interface of a task: what is learned of a picture, and how well that went."""

from abc import ABC, abstractmethod

from torch import nn

from training.data.annotations import Annotations
from training.networks.networks import NetworkConfig, Stem


class Task(ABC):
    """A task that networks learn; one object a task, found by `training.tasks.registry`.

    Attributes:
        name: In checkpoints, points and records, and of the flag `--task`.
        annotations: What is read of a split, and how it is cropped.
    """

    name: str
    annotations: type[Annotations]

    @abstractmethod
    def build_parts(self, config: NetworkConfig) -> tuple[Stem, nn.Module]:
        """Returns a fresh backbone's stem, and the tail that makes this task's outputs."""
