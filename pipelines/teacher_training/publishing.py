"""A teacher as it is published: its weights in half precision, under the name that stores give it.

Statistics of batch norm stay float32: a variance may be beyond half precision.
"""

from pathlib import Path

import torch

from latent_store.errors import CheckpointError
from training.trainer.checkpoints import load_network, save_checkpoint

DEMO_FOLDER = Path(__file__).parent / "demo"
"""Package data: one teacher of each task, trained on generated pictures alone."""


def publish(checkpoint: Path, folder: Path) -> Path:
    """Writes a teacher's file for others, of half the size; returns its path.

    Raises:
        CheckpointError: If it is no teacher's, or a weight is not finite in half precision.
    """
    loaded = load_network(checkpoint, kind="teacher")
    for name, parameter in loaded.network.named_parameters():
        parameter.data = parameter.data.half()
        if not torch.isfinite(parameter).all():
            raise CheckpointError(
                f"parameter {name} is not finite in half precision; train with a lower "
                "--learning_rate"
            )
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / "unnamed.pt"
    save_checkpoint(unnamed, loaded.network, meta=loaded.meta)
    return unnamed.rename(folder / f"{load_network(unnamed).teacher_id}.pt")


def demo_teacher(task: str) -> Path:
    """Returns the file of the teacher of a task that comes with the package.

    Raises:
        CheckpointError: If there is not one.
    """
    found = {load_network(path).config.task: path for path in sorted(DEMO_FOLDER.glob("*.pt"))}
    if task not in found:
        raise CheckpointError(
            f"{DEMO_FOLDER} holds teachers for {', '.join(found) or 'nothing'}, none for {task}; "
            "install the package again"
        )
    return found[task]
