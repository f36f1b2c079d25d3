"""`encode-to-store --teacher_dtype`: what it stores, and that one component has one encoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latent_store
from latent_store.format.feature_encoding import BITROUND, KEEPBITS
from latent_store.storage.location import Location
from latent_store.tools import verify as integrity
from pipelines import encode
from tests.conftest import TinyStore, encode_args
from tests.latent_store.format.test_feature_encoding import CORE_CODECS, array_codecs

Fails = Callable[..., str]


def teacher_args(store: TinyStore, url: Path, *more: str) -> list[str]:
    """Encodes the first validation scenes' features, and no latents."""
    args = encode_args(TinyStore(url=url, data_root=store.data_root, teacher=store.teacher), "val")
    return [*(a for a in args if a != "--demo_codec"), *more]


@pytest.fixture
def rounded(tiny_store: TinyStore, tmp_path: Path) -> Path:
    """A store whose features are bit-rounded."""
    url = tmp_path / "rounded.zarr"
    more = ("--teacher_dtype", BITROUND, "--max_samples", "2")
    assert encode.main(teacher_args(tiny_store, url, *more)) == 0
    return url


def test_rounded_features_are_near_the_quantised_ones(rounded: Path, tiny_store: TinyStore) -> None:
    reader = latent_store.open(rounded)["cityscapes/val"].teacher()
    assert reader.encoding.keepbits == KEEPBITS
    assert reader.array("features").dtype == np.float16
    other = latent_store.open(tiny_store.url)["cityscapes/val"].teacher()
    assert str(other.encoding) == "uint8"
    expected = other.read([0, 1])
    step = other._column("feature_scale", [0, 1])[:, :, None, None]
    # Half a step of the one, half a unit of the last kept bit of the other.
    bound = 0.501 * step + (expected + step) * 2.0 ** -(KEEPBITS + 1)
    assert (np.abs(reader.read([0, 1]) - expected) <= bound).all()
    foreign = {name: names - CORE_CODECS for name, names in array_codecs(rounded).items()}
    assert {name: names for name, names in foreign.items() if names} == {}
    assert list(integrity.verify(Location(rounded))) == []


def test_one_component_has_one_encoding(
    rounded: Path, tiny_store: TinyStore, fails: Fails, capsys: Any
) -> None:
    for asked in ("uint8", "float16"):
        line = fails(encode.main, teacher_args(tiny_store, rounded, "--teacher_dtype", asked))
        assert f"holds features as float16-bitround ({KEEPBITS} bits), --teacher_dtype is" in line
        assert f"is {asked}: one component has one encoding; leave the flag out, or enc" in line
    # Without the flag an append takes what is there.
    assert encode.main(teacher_args(tiny_store, rounded)) == 0
    reader = latent_store.open(rounded)["cityscapes/val"].teacher()
    assert reader.rows.tolist() == [0, 1, 2, 3]
    assert reader.encoding.name == BITROUND


def test_features_without_attributes_are_what_their_dtype_says(
    copied_store: TinyStore, fails: Fails
) -> None:
    """Stores from before the attributes: uint8 and float16 were all there was."""
    split = latent_store.open(copied_store.url)["cityscapes/val"]
    path = copied_store.url / split.teacher().group.path / "zarr.json"
    path.write_text(path.read_text().replace('"feature_encoding"', '"older"'))
    line = fails(encode.main, encode_args(copied_store, "val", "--teacher_dtype", "float16"))
    assert "holds features as uint8, --teacher_dtype is float16" in line
    assert encode.main(encode_args(copied_store, "val", "--teacher_dtype", "uint8")) == 0
