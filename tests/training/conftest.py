"""What this room's tests share: the validation split of the small store, and its codec."""

from __future__ import annotations

import pytest

import latent_store
from latent_store.codec import Codec, codec_from_store
from latent_store.reader import Split
from tests.conftest import TinyStore


@pytest.fixture(scope="module")
def split(tiny_store: TinyStore) -> Split:
    """The validation split; read only."""
    return latent_store.open(tiny_store.url)["cityscapes/val"]


@pytest.fixture(scope="module")
def codec(split: Split) -> Codec:
    """The codec that wrote it."""
    return codec_from_store(split.store)
