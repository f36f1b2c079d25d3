"""A reader of one's own, `--dataset PACKAGE.MODULE:Reader`: known to this file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import latent_store
from latent_store.format.samples import Sample
from pipelines import encode
from pipelines.datasets.base import DatasetReader
from pipelines.datasets.files import picture_sizes
from tests.pipelines.made_voc import write_picture

SIZE = (64, 96)


class Photos(DatasetReader):
    """The whole protocol of pictures alone."""

    dataset_id = "photos"

    def manifest(self, split: str) -> list[Sample]:
        files = self.data_root.sizes(split)
        uris = sorted(uri for uri in files if uri.endswith(".jpg"))
        sizes = picture_sizes(self.data_root, uris)
        return [
            Sample(
                sample_id=Path(uri).stem,
                image_uri=uri,
                label_uri=uri if self.task else "",
                height=height,
                width=width,
                image_bytes=files[uri],
            )
            for uri, (height, width) in zip(uris, sizes, strict=True)
        ]


class Halves(Photos):
    """With labels: that of every pixel is its half."""

    task = "segmentation"
    class_names = ("left", "right")

    def read_labels(self, sample: Sample) -> np.ndarray:
        labels_HW = np.zeros((sample.height, sample.width), np.uint8)
        labels_HW[:, sample.width // 2 :] = 1
        return labels_HW


class WithoutLabels(Photos):
    task = "segmentation"
    class_names = ("left", "right")


class Transposed(Halves):
    def read_labels(self, sample: Sample) -> np.ndarray:
        return super().read_labels(sample).T


class Beyond(Halves):
    class_names = ("left",)


class Raising(Halves):
    def read_labels(self, sample: Sample) -> np.ndarray:
        raise KeyError(sample.sample_id)


class Unlisted(DatasetReader):
    dataset_id = "photos"


class Nameless(Photos):
    dataset_id = None  # type: ignore[assignment]


class Empty(Photos):
    def manifest(self, split: str) -> list[Sample]:
        return []


class Deaf(Photos):
    def __init__(self) -> None:
        """Takes no data root."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/train").mkdir(parents=True)
    for seed in range(3):
        write_picture(tmp_path / f"root/train/{seed}.jpg", seed, SIZE)
    return tmp_path / "root"


def arguments(inputs: Path, root: Path, place: str) -> list[str]:
    place = place if ":" in place else f"{__name__}:{place}"
    words = ["--dataset", place, "--data_root", root, "--split", "train", "--threads", "1"]
    words += ["--store", root.parent / "s.zarr", "--codec_checkpoint", inputs / "codec.pth.tar"]
    return [str(word) for word in words]


def test_pictures_alone_and_with_labels(inputs: Path, root: Path, serial: None) -> None:
    assert encode.main(arguments(inputs, root, "Photos")) == 0
    split = latent_store.open(root.parent / "s.zarr")["photos/train"]
    assert [key.split("/")[0] for key in split.components()] == ["latents"]
    assert encode.main(arguments(inputs, root, "Halves")) == 0
    labels = latent_store.open(root.parent / "s.zarr")["photos/train"].labels()
    assert labels.class_names == ("left", "right")
    assert labels.read([0])[0, 0, [0, 47, 48, 95]].tolist() == [0, 0, 1, 1]


REFUSALS = {
    "no.such.module:Reader": "no.such.module:Reader cannot be imported (ModuleNotFoundError: ",
    f"{__name__}:Nothing": "has no attribute 'Nothing'; check the name after the colon",
    f"{__name__}:SIZE": "must be a class derived from pipelines.datasets.base.DatasetReader",
    "Unlisted": "lacks the method manifest",
    "WithoutLabels": "has the task segmentation, but lacks the method read_labels",
    "Nameless": "lacks `dataset_id`, its name in a store",
    "Transposed": "must be uint8 of 64x96 (height x width), Transposed gives uint8 of (96, 64)",
    "Beyond": "hold 1: there are 1 classes, from 0, and 255 is ignored",
    "Raising": "Raising.read_labels raised KeyError: '0'; mend the reader",
    "Empty": "Empty.manifest('train') must return samples, one or more, got list of none",
    "Deaf": "raised TypeError: ",
    "photos": "argument --dataset: invalid choice: 'photos' (choose from ",
}


@pytest.mark.parametrize("place", REFUSALS)
def test_refusals_before_anything_is_written(
    inputs: Path, root: Path, fails: Callable[..., str], place: str
) -> None:
    args = arguments(inputs, root, place)
    if place == "photos":
        args[1] = place
    assert REFUSALS[place] in fails(encode.main, args)
    assert not (root.parent / "s.zarr").exists()
