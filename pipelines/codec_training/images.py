"""Pictures that a codec is trained and judged on: generated scenes, or those of a folder."""

import itertools
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent_store.console import progress
from latent_store.errors import DatasetError
from latent_store.storage.location import Location
from pipelines.codec_training.config import EPOCH_STEPS
from pipelines.datasets.files import read_pixels
from pipelines.datasets.listing import list_files
from pipelines.scenes.scene import render_scene
from pipelines.scenes.sets import CODEC_CHECK_FIRST, CODEC_TRAIN_FIRST
from training.data.loader import EpochLoader, TensorBatch

_SCENE_SIZES = ((256, 512), (256, 512), (384, 768), (512, 1024))
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".webp")


class RandomCrops(EpochLoader):
    """Random square crops of pictures held in memory: "x_BCHW", and their "step".

    Args:
        images: Uint8 [height, width, 3] each, at least `crop` pixels high and wide.
        seed: With the step's number it fixes a batch, so a resumed run sees the same ones.
    """

    def __init__(self, images: Sequence[np.ndarray], crop: int, batch_size: int, seed: int) -> None:
        super().__init__()
        self._images, self._crop, self._batch_size, self._seed = images, crop, batch_size, seed
        # Large pictures hold more crops, but each picture is one scene only: halfway between.
        areas = np.array([image[..., 0].size for image in images], dtype=np.float64)
        self._odds = np.cumsum(np.sqrt(areas) / np.sqrt(areas).sum())

    def __len__(self) -> int:
        return EPOCH_STEPS

    def stream(self, epoch: int, position: int) -> Generator[TensorBatch]:
        """Yields batches for ever, starting with batch `position` of `epoch`."""
        for step in itertools.count(epoch * EPOCH_STEPS + position):
            yield {"x_BCHW": self.batch(step), "step": step}

    def settings(self) -> dict[str, Any]:
        """Returns nothing: the settings of a codec's training say it all."""
        return {}

    def batch(self, step: int) -> Tensor:
        """Return the step's crops: float32 [batch, 3, crop, crop] in [0, 1], channels last."""
        rng, crop = np.random.default_rng([self._seed, step]), self._crop
        crops = []
        for _ in range(self._batch_size):
            pick = min(int(np.searchsorted(self._odds, rng.random())), len(self._images) - 1)
            image = self._images[pick]
            top = int(rng.integers(image.shape[0] - crop + 1))
            left = int(rng.integers(image.shape[1] - crop + 1))
            window = image[top : top + crop, left : left + crop]
            crops.append(window[:, ::-1] if rng.random() < 0.5 else window)
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(255)


def procedural_images(count: int, seed: int) -> list[np.ndarray]:
    """Draw `count` scenes of mixed sizes, uint8 [height, width, 3], to train on."""
    return [
        render_scene(seed, CODEC_TRAIN_FIRST + k, *_SCENE_SIZES[k % len(_SCENE_SIZES)]).image_HWC
        for k in progress(range(count), desc="drawing scenes", unit="scene")
    ]


def folder_images(folder: Path, crop: int) -> list[np.ndarray]:
    """Read every picture below a folder as uint8 [height, width, 3], skipping too small ones.

    Raises:
        DatasetError: If the folder is missing, a file cannot be read, or nothing is left.
    """
    if not folder.is_dir():
        raise DatasetError(f"--data must be 'procedural' or a folder of images; no folder {folder}")
    location = Location(folder)
    uris = list_files(location, "", *_IMAGE_SUFFIXES)
    images = []
    for uri in progress(uris, desc="reading images", unit="image"):
        image, _ = read_pixels(location, uri)
        if min(image.shape[:2]) >= crop:
            images.append(image)
    if not images:
        raise DatasetError(
            f"{folder} holds no image of at least {crop}x{crop} pixels among its {len(uris)} "
            "images; give another folder or a smaller --crop"
        )
    return images


def held_out_scenes(seed: int) -> list[np.ndarray]:
    """Draw scenes 256x512 that no training has seen."""
    return [render_scene(seed, CODEC_CHECK_FIRST + k, 256, 512).image_HWC for k in range(16)]
