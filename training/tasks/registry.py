"""The tasks that there are, by name."""

from latent_store.errors import LatentStoreError
from training.tasks.base import Task
from training.tasks.detection import DETECTION
from training.tasks.segmentation import SEGMENTATION

TASKS: dict[str, Task] = {task.name: task for task in (SEGMENTATION, DETECTION)}
"""A task that is added here is one of all commands."""


def find_task(name: str) -> Task:
    """Returns the task that a flag, a checkpoint or a record names.

    Raises:
        LatentStoreError: If there is none of that name.
    """
    if name not in TASKS:
        raise LatentStoreError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]
