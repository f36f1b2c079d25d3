"""What sets of generated scenes have in common, whatever layout they are written in."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from latent_store.console import progress
from pipelines.scenes.scene import TRAIN_FIRST, VAL_FIRST, SceneError

MOST_SCENES = VAL_FIRST - TRAIN_FIRST


def require_counts(train: int, val: int, seed: int) -> None:
    """Refuse numbers of scenes, or a seed, that no set has.

    Raises:
        SceneError: If one is out of range.
    """
    for name, count in (("train", train), ("val", val)):
        if not 0 <= count <= MOST_SCENES:
            raise SceneError(f"--{name} must be 0 to {MOST_SCENES} scenes, not {count}")
    if not train + val:
        raise SceneError("--train and --val are both 0; ask for at least one scene")
    if seed < 0:
        raise SceneError(f"--seed must be 0 or more, not {seed}")


def make_room(output: Path, folders: Sequence[str], what: str, *, overwrite: bool) -> None:
    """Make sure that a set can be written.

    Args:
        output: The dataset's root.
        folders: Those in it that the set owns, which are removed.
        what: The set, as the message calls it.
        overwrite: Whether a root that already has content may be written to.

    Raises:
        SceneError: If it has content and may not.
    """
    if output.exists() and not output.is_dir():
        raise SceneError(f"--output {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise SceneError(
                f"--output {output} is not empty; name a new folder, or give --overwrite to "
                f"replace the pictures of {what} in it"
            )
        for folder in folders:
            shutil.rmtree(output / folder, ignore_errors=True)


def scene_jobs(train: int, val: int) -> Iterable[tuple[str, int, int]]:
    """Return (split, number in it, index of the scene), with a bar; no scene is in both splits."""
    jobs = [("train", k, TRAIN_FIRST + k) for k in range(train)]
    jobs += [("val", k, VAL_FIRST + k) for k in range(val)]
    return progress(jobs, desc="drawing scenes", unit="scene")
