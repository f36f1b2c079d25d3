"""The tasks that there are, by name, and the networks that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latent_store.errors import LatentStoreError
from training.flags import asked_for
from training.kinds import Kinds

if TYPE_CHECKING:
    from training.networks.network_config import NetworkConfig
    from training.networks.networks import LatentNetwork, PixelNetwork
    from training.tasks.base import Task

TASKS: Kinds[Task] = Kinds(
    segmentation="training.tasks.segmentation:SEGMENTATION",
    detection="training.tasks.detection:DETECTION",
)
"""A task that is added here is one of all commands."""


def find_task(name: str) -> Task:
    """Returns the task that a flag, a checkpoint or a record names.

    Raises:
        LatentStoreError: If there is none of that name.
    """
    if name not in TASKS:
        raise LatentStoreError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def build_network(config: NetworkConfig) -> PixelNetwork | LatentNetwork:
    """Returns a network with its task's tail and fresh weights, in training mode.

    Raises:
        LatentStoreError: The config asks for a head that its task's networks have not.
    """
    # Loads torch, which nothing else here needs.
    from training.networks.networks import LatentNetwork, PixelNetwork

    task = find_task(config.task)
    if config.auxiliary_head and "auxiliary_head" not in task.fields:
        raise LatentStoreError(
            f"--auxiliary_head is an FCN head, which segments; got --task {config.task}"
        )
    kind = PixelNetwork if config.domain == "pixel" else LatentNetwork
    return kind(config, task.build_parts)


def headline(scores: Mapping[str, float]) -> str:
    """Returns a validation's main score with its name, e.g. "mIoU 0.7512"; "" without one."""
    metrics = (task.metric for task in TASKS.values())
    return next((f"{m.title} {scores[m.score]:.4f}" for m in metrics if m.score in scores), "")


def require_own_fields(config: Any, name: str) -> None:
    """Refuses settings of other tasks' networks.

    Args:
        config: Flags, which have the fields of networks.
        name: Of the task.

    Raises:
        LatentStoreError: If one is given; it is named.
    """
    own = find_task(name).fields
    for other in TASKS.values():
        for field in asked_for(config, [field for field in other.fields if field not in own]):
            raise LatentStoreError(
                f"--{field} is a setting of {other.name}, the task is {name}: leave it out"
            )
