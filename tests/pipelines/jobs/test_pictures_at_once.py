"""A worker has as many pictures under way as it has cores, and writes what one at a time would."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latent_store.format.samples import Sample
from pipelines import encode
from pipelines.jobs import encoding
from tests.conftest import CODEC
from tests.pipelines.datasets.test_own_reader import SIZE, Halves
from tests.pipelines.made_voc import write_picture
from tests.pipelines.test_encode import codec_args, contents, images_of, own_root

__all__ = ["own_root"]


def with_threads(count: int, words: list[str]) -> list[str]:
    words = list(words)
    words[words.index("--threads") + 1] = str(count)
    return words


def test_the_store_is_that_of_one_at_a_time(own_root: Path, tmp_path: Path) -> None:
    images_of(own_root)[1].write_bytes(b"no picture")
    more = ("--samples_per_shard", "4", "--max_failures", "1", "--psnr", "sample")
    for count in (1, 3):
        words = codec_args(own_root, tmp_path / f"{count}.zarr", "val", *more)
        assert encode.main(with_threads(count, words)) == 0
    assert contents(tmp_path / "3.zarr") == contents(tmp_path / "1.zarr")


def test_pictures_are_under_way_together(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, together = encoding.read_picture, threading.Barrier(2)

    def meet(*args: Any) -> Any:
        together.wait(60)  # Alone it would wait for ever.
        assert torch.get_num_threads() == 1
        return read(*args)

    monkeypatch.setattr(encoding, "read_picture", meet)
    assert encode.main(with_threads(2, codec_args(scene_root, tmp_path / "s.zarr"))) == 0


class Single(Halves):
    """An archive, say, whose place is one for all."""

    busy = threading.Lock()

    def read_labels(self, sample: Sample) -> np.ndarray:
        if not self.busy.acquire(blocking=False):
            raise RuntimeError("two at a time")
        try:
            time.sleep(0.02)
            return super().read_labels(sample)
        finally:
            self.busy.release()


def test_a_reader_is_asked_by_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for number in range(4):
        write_picture(folder / f"{number}.jpg", number, SIZE)
    words = ["--dataset", f"{__name__}:Single", "--data_root", str(tmp_path / "data")]
    words += ["--split", "train", "--store", str(tmp_path / "s.zarr"), "--threads", "4", *CODEC]
    assert encode.main(words) == 0


def test_latents_that_were_begun_with_two_threads_go_on_with_two(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = with_threads(4, codec_args(scene_root, tmp_path / "s.zarr"))
    with monkeypatch.context() as earlier:
        earlier.setattr(encoding.EncodeJob, "notes", lambda self: {"encoder_threads": 2})
        assert encode.main([*words, "--max_samples", "2"]) == 0
    read, seen = encoding.read_picture, []

    def told(*args: Any) -> Any:
        seen.append(torch.get_num_threads())
        return read(*args)

    monkeypatch.setattr(encoding, "read_picture", told)
    assert encode.main(words) == 0
    assert seen == [2, 2]
