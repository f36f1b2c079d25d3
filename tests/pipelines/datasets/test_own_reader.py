"""A reader of one's own, `--dataset PACKAGE.MODULE:Reader`: known to this file alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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


class RaisingOnce(Halves):
    def read_labels(self, sample: Sample) -> np.ndarray:
        return super().read_labels(sample) if sample.sample_id != "1" else {}[sample.sample_id]


class ClassesOfLetters(Halves):
    class_names = "ab"  # type: ignore[assignment]


class ClassesTwice(Halves):
    class_names = ("left", "left")


class Unlisted(DatasetReader):
    dataset_id = "photos"


class Nameless(Photos):
    dataset_id = None  # type: ignore[assignment]


class Empty(Photos):
    def manifest(self, split: str) -> list[Sample]:
        return []


class Broken(Photos):
    def manifest(self, split: str) -> Iterator[Sample]:  # type: ignore[override]
        yield from super().manifest(split)
        raise KeyError("files")


class Twins(Photos):
    def manifest(self, split: str) -> list[Sample]:
        return [dataclasses.replace(s, sample_id="twin") for s in super().manifest(split)]


class Fractions(Photos):
    def manifest(self, split: str) -> list[Sample]:
        return [dataclasses.replace(s, height=64.0) for s in super().manifest(split)]  # type: ignore[arg-type]


class Elsewhere(Photos):
    def manifest(self, split: str) -> list[Sample]:
        return [dataclasses.replace(s, image_uri="none.jpg") for s in super().manifest(split)]


class Flat(Photos):
    def canvas_of(self, samples: Sequence[Sample]) -> tuple[int, int] | None:
        return 64  # type: ignore[return-value]


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
    "no.such.module:Reader": (
        "no.such.module:Reader cannot be imported (ModuleNotFoundError: No module named 'no'; "
        "install it, or set PYTHONPATH to the folder that holds it)"
    ),
    f"{__name__}:Nothing": (
        f"{__name__}:Nothing cannot be imported (module {__name__!r} has no attribute 'Nothing'; "
        "check the name after the colon)"
    ),
    f"{__name__}:SIZE": (
        f"--dataset {__name__}:SIZE must be a class derived from "
        "pipelines.datasets.base.DatasetReader, got tuple; derive it"
    ),
    "Unlisted": "--dataset PLACE lacks the method manifest; see `DatasetReader`",
    "WithoutLabels": (
        "--dataset PLACE has the task segmentation, but lacks the method read_labels; write it, or "
        "have no task"
    ),
    "Nameless": "--dataset PLACE lacks `dataset_id`, its name in a store; give it",
    "Transposed": (
        "the labels of 0 must be uint8 of 64x96 (height x width), Transposed gives uint8 of "
        "(96, 64); mend the reader"
    ),
    "Beyond": (
        "the labels of 0 hold 1: there are 1 classes, from 0, and 255 is ignored; mend the reader "
        "or its class names"
    ),
    "Raising": "Raising.read_labels raised KeyError: '0'; mend the reader",
    "ClassesOfLetters": (
        "--dataset PLACE has the task segmentation: its `class_names` must be a tuple of 1 to 255 "
        "names, each once, got ab; mend it"
    ),
    "ClassesTwice": (
        "--dataset PLACE has the task segmentation: its `class_names` must be a tuple of 1 to 255 "
        "names, each once, got ('left', 'left'); mend it"
    ),
    "Empty": (
        "Empty.manifest('train') must return samples, one or more, got list of none; see "
        "`DatasetReader`"
    ),
    "Broken": "Broken.manifest raised KeyError: 'files'; mend the reader",
    "Twins": (
        "train/0.jpg and train/1.jpg have the id 'twin': ids must be unique in a split; rename "
        "one, with its labels"
    ),
    "Fractions": (
        "Fractions.manifest('train') must return samples as `Sample` describes them, '0' is none "
        "(Expected `int`, got `float` - at `$.height`); mend the reader"
    ),
    "Elsewhere": "none.jpg is missing; restore it",
    "Flat": (
        "Flat.canvas_of must return a height and a width in pixels, or None, got 64; mend the "
        "reader"
    ),
    "Deaf": "PLACE raised TypeError: Deaf.__init__() takes 1 positional argument but 2 were given;",
    "photos": "argument --dataset: invalid choice: 'photos' (choose from ",
}


@pytest.mark.parametrize("place", REFUSALS)
def test_refusals_before_anything_is_written(
    inputs: Path, root: Path, fails: Callable[..., str], place: str
) -> None:
    args = arguments(inputs, root, place)
    if place == "photos":
        args[1] = place
    line = fails(encode.main, args)
    message = REFUSALS[place].replace("PLACE", f"{__name__}:{place}")
    assert line.startswith(f"encode-to-store: error: {message}")
    assert not (root.parent / "s.zarr").exists()


def test_what_a_reader_raises_for_one_sample_fails_its_row(
    inputs: Path, root: Path, serial: None, fails: Callable[..., str]
) -> None:
    line = fails(encode.main, arguments(inputs, root, "RaisingOnce"), status=1)
    assert "1 samples of photos/train/labels failed, more than --max_failures 0 (first: 1: " in line
    assert "(first: 1: RaisingOnce.read_labels raised KeyError: '1'; mend the reader)" in line
    assert encode.main([*arguments(inputs, root, "RaisingOnce"), "--max_failures", "1"]) == 0
    split = latent_store.open(root.parent / "s.zarr")["photos/train"]
    assert split.common_rows(split.latents(), split.labels()).tolist() == [0, 2]
