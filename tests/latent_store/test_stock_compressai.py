"""Unmodified CompressAI encodes to what is stored, and decodes what is stored."""

import latent_store
from tests.benchmarks.stock_codec import compare_with_stock
from tests.conftest import TRAIN, TinyStore


def test_stock_compressai_agrees_on_every_image(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    report = compare_with_stock(store, "cityscapes/train", tiny_store.data_root)
    assert report.images == TRAIN
    assert report.passed, str(report)
