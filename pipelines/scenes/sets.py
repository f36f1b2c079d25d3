"""The frame of a set of generated scenes, whatever folder layout it is written in."""

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from latent_store.console import MOST_SEED, progress
from pipelines.scenes.scene import TRAIN_FIRST, VAL_FIRST, SceneError
from training.flags import Flags, flag

MOST_SCENES = VAL_FIRST - TRAIN_FIRST


@dataclass(frozen=True, kw_only=True)
class SceneSet(Flags, ABC):
    """Scenes of two splits, which share none; a layout says how each is written.

    Raises:
        LatentStoreError: If a number is out of range.
        SceneError: If there is no scene.
    """

    train: int = flag("scenes in the train split", default=64, most=MOST_SCENES)
    val: int = flag("scenes in the val split", default=24, most=MOST_SCENES)
    seed: int = flag("the same seed gives the same scenes", default=0, most=MOST_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train + self.val:
            raise SceneError("--train and --val are both 0; ask for at least one scene")

    @property
    @abstractmethod
    def size(self) -> str:
        """The pictures' size, in words."""

    @property
    @abstractmethod
    def owned(self) -> tuple[str, list[str]]:
        """The set's name, and the folders below a dataset's root that are its alone."""

    @abstractmethod
    def write_scene(self, root: Path, split: str, number: int, index: int) -> None:
        """Draws scene `index` and writes it as picture `number`, from 0, of a split."""

    def generate(self, root: Path, *, overwrite: bool = False) -> int:
        """Draws and writes all scenes below a dataset's root; returns their number.

        Args:
            root: The folder.
            overwrite: Replace what the set owns in a root that already has content.

        Raises:
            SceneError: If the root has content and overwrite is not set.
        """
        self._make_room(root, overwrite=overwrite)
        jobs = [("train", k, TRAIN_FIRST + k) for k in range(self.train)]
        jobs += [("val", k, VAL_FIRST + k) for k in range(self.val)]
        for job in progress(jobs, desc="drawing scenes", unit="scene"):
            self.write_scene(root, *job)
        return len(jobs)

    def _make_room(self, root: Path, *, overwrite: bool) -> None:
        name, folders = self.owned
        if root.exists() and not root.is_dir():
            raise SceneError(f"--output {root} is a file; name a folder")
        if not root.is_dir() or not any(root.iterdir()):
            return
        if not overwrite:
            raise SceneError(
                f"--output {root} is not empty; name a new folder, or give --overwrite to replace "
                f"the pictures of {name} in it"
            )
        for folder in folders:
            shutil.rmtree(root / folder, ignore_errors=True)
