"""What this room's tests share: the small store's validation split and codec, and detectors."""

from __future__ import annotations

from pathlib import Path

import pytest

import latent_store
from latent_store.codec import Codec, codec_from_store
from latent_store.store import Split
from tests.conftest import TinyStore
from tests.training.made_detectors import BoxStore, make_box_store, make_detectors


@pytest.fixture(scope="module")
def split(tiny_store: TinyStore) -> Split:
    """The validation split; read only."""
    return latent_store.open(tiny_store.url)["cityscapes/val"]


@pytest.fixture(scope="module")
def codec(split: Split) -> Codec:
    """The codec that wrote it."""
    return codec_from_store(split.store)


@pytest.fixture(scope="session")
def box_store(tmp_path_factory: pytest.TempPathFactory) -> BoxStore:
    """A VOC store of 4 + 4 pictures with boxes; read only."""
    return make_box_store(tmp_path_factory.mktemp("voc"), train=4, test=4)


@pytest.fixture(scope="session")
def detectors(box_store: BoxStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One untrained detector of each kind, by name."""
    return make_detectors(tmp_path_factory.mktemp("detectors"), box_store)
