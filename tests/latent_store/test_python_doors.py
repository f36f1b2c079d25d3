"""A store as Python and notebooks meet it: sequences, completion, and what objects show."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.core.completer import IPCompleter, provisionalcompleter

import latent_store
from latent_store.display import Sections, Shown
from latent_store.errors import StoreNotFoundError
from latent_store.store import Split
from tests.conftest import HEIGHT, RANKING, TRAIN, WIDTH, TinyStore


@pytest.fixture
def split(tiny_store: TinyStore) -> Split:
    return latent_store.open(tiny_store.url)["cityscapes/train"]


def test_a_store_is_its_splits_and_a_split_its_samples(tiny_store: TinyStore, split: Split) -> None:
    store = latent_store.open(tiny_store.url)
    assert list(store) == ["cityscapes/train", "cityscapes/val"]
    assert (len(store), "cityscapes/val" in store, "val" in store) == (2, True, False)
    assert len(split) == len(list(split)) == TRAIN
    first, last = split[0], split[-1]
    assert (first.row, last.row) == (0, TRAIN - 1)
    assert split[first.sample_id] == first
    for outside in (TRAIN, -TRAIN - 1):
        with pytest.raises(IndexError, match=f"train has {TRAIN} samples, 0 to {TRAIN - 1}$"):
            split[outside]
    with pytest.raises(StoreNotFoundError, match=r"has no sample 'x' \(its first is"):
        split["x"]


def test_a_sample_is_what_its_readers_read_without_the_canvas(split: Split) -> None:
    sample = split[2]
    y_hat_CHW = split.latents().read([2])[0]
    np.testing.assert_array_equal(sample.y_hat(), y_hat_CHW[:, :8, :12])
    np.testing.assert_array_equal(sample.y_hat([5, 3]), y_hat_CHW[[5, 3], :8, :12])
    np.testing.assert_array_equal(sample.labels(), split.labels().read([2])[0, :HEIGHT, :WIDTH])
    features_CHW = split.teacher().read([2])[0]
    np.testing.assert_array_equal(sample.features(), features_CHW[:, :32, :48])
    picture_HWC = sample.decode()
    assert picture_HWC.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(picture_HWC, split.decode(sample.sample_id))
    np.testing.assert_array_equal(picture_HWC, split.decode(2))


def test_what_objects_show(tiny_store: TinyStore, split: Split) -> None:
    codec = split.latents().spec.codec_id
    shown = repr(latent_store.open(tiny_store.url)).splitlines()
    assert shown[0] == f"<latent_store.LatentStore> {tiny_store.url}"
    assert shown[1:4] == [
        "Splits:",
        "    cityscapes/train  6 samples",
        "    cityscapes/val    4 samples",
    ]
    assert f"    {codec}  192 channels; rankings: {RANKING}" in shown
    shown = repr(split).splitlines()
    assert shown[0] == (
        "<latent_store.Split> 'cityscapes/train': 6 samples in 3 shards, coded at 128x192"
    )
    assert any(re.fullmatch(r"    labels +complete", line) for line in shown)
    shown = repr(split.latents()).splitlines()
    assert shown[0] == (
        f"<latent_store.LatentsReader> cityscapes/train/latents/{codec}: 6 usable rows"
    )
    y_hat = (
        r"    y_hat +int(8|16 × 0\.03125) \(sample: 6, channel: 192, latent_y: 8, latent_x: 12\)"
    )
    assert any(re.fullmatch(y_hat, line) for line in shown)
    assert "row 0, 96x150 (height x width), original" in repr(split[0])


def test_html_has_every_line_and_no_markup_of_names(split: Split) -> None:
    html = split.latents()._repr_html_()
    assert html.count("<tr>") == len(split.latents().record.arrays)
    assert "<summary>Arrays (" in html
    first = split[0]
    named = dataclasses.replace(
        first, sample=dataclasses.replace(first.sample, image_uri="<script>")
    )
    assert "&lt;script&gt;" in named._repr_html_()
    assert "<script>" not in named._repr_html_()


def test_what_cannot_be_read_is_said_where_it_would_be_shown(copied_store: TinyStore) -> None:
    split = latent_store.open(copied_store.url)["cityscapes/train"]
    (Path(copied_store.url) / "cityscapes/train/labels/zarr.json").write_bytes(b"{")
    assert "unreadable:" in repr(split)
    assert "unreadable" in split._repr_html_()


def test_keys_are_completed(tiny_store: TinyStore, split: Split) -> None:
    # Without a shell: Beam takes another way in a process that has one.
    names = {"store": latent_store.open(tiny_store.url), "split": split}
    completer = IPCompleter(namespace=names, use_jedi=False)
    with provisionalcompleter():
        for text, key in (("store['", "cityscapes/val"), ("split['", split[1].sample_id)):
            found = [completion.text for completion in completer.completions(text, len(text))]
            assert any(key in word for word in found), found


def test_the_public_namespace() -> None:
    assert dir(latent_store) == [
        *("Boxes", "CodecSpec", "LatentStore", "LatentStoreError", "Location", "Ranking", "Split"),
        *("StoredSample", "__version__", "describe", "open"),
    ]
    assert all(hasattr(latent_store, name) for name in dir(latent_store))
    assert latent_store.__version__ == importlib.metadata.version("latent-store")

    assert not hasattr(latent_store, "versoin")


def test_a_source_tree_that_is_not_installed_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", refuse)
    assert importlib.reload(latent_store).__version__ == "unknown (not installed)"


class Broken(Shown):
    """Something of which nothing can be read."""

    def _headline(self) -> str:
        return self.__dict__.get("headline") or str({}["lost"])

    def _sections(self) -> Sections:
        raise RuntimeError("of s3://u:secret@b/k")


def test_what_cannot_be_read_is_shown_as_that() -> None:
    broken = Broken()
    assert repr(broken) == "<latent_store.Broken> \nunreadable:\n    KeyError('lost')"
    broken.__dict__["headline"] = "broken"
    for shown in (repr(broken), broken._repr_html_()):
        assert "broken" in shown
        assert "RuntimeError" in shown
        assert "secret" not in shown


def refuse(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)


def test_tables_are_read_by_pandas(tiny_store: TinyStore, split: Split) -> None:
    folder = Path(tiny_store.url) / ".latent_store/cityscapes/train"
    samples = pd.read_parquet(folder / "samples.parquet")
    assert samples["sample_id"].tolist() == [sample.sample_id for sample in split]
    (path,) = folder.glob("latents-*[0-9a-f].parquet")
    rates = pd.read_parquet(path)["bpp"]
    np.testing.assert_allclose(rates, split.latents().quality(split.latents().rows)["bpp"])
