"""Ranked channels, and rankings that do not fit the codec."""

from __future__ import annotations

import pytest

import latent_store
from latent_store.catalogue.rankings import write_ranking
from latent_store.errors import RankingError
from tests.conftest import RANKING, TinyStore
from tests.latent_store.catalogue.test_rankings import make_ranking
from training.selection.ranked import find_ranking


def test_a_ranking_of_fewer_channels_than_its_codec_has_is_refused(
    copied_store: TinyStore,
) -> None:
    store = latent_store.open(copied_store.url)
    spec = store.codec()
    assert len(find_ranking(RANKING, store, spec).order) == spec.channels
    short = make_ranking([3.0, 1.0, 2.0], ranking_id="short", codec_id=spec.codec_id)
    write_ranking(store.location, short)
    line = rf"short orders 3 channels, codec {spec.codec_id} has {spec.channels}: derive one with"
    with pytest.raises(RankingError, match=line):
        find_ranking("short", store, spec)
