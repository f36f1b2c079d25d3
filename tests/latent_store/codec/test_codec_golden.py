"""Streams, scale indexes and means that must never change, as hashes beside this file.

`GENERATE_EXPECTED=1 pytest tests/latent_store/codec/test_codec_golden.py` writes them again. A
hash that changes without a new codec means that streams written before no longer decode.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import latent_store
from latent_store.codec import (
    Codec,
    EntropyTables,
    codec_from_store,
    encode_scalable,
    encode_y,
    encode_z,
    load_codec,
    unpack_stream,
)
from latent_store.codec.checkpoints import DEMO_FOLDER
from latent_store.tools.decode import CodedSample
from tests.latent_store.archives import make_v2
from tests.latent_store.codec.made_codec import CODECS, made_tables

EXPECTED = Path(__file__).parent / "expected" / "streams.json"


def digest(data: bytes) -> str:
    return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:16]}"


def stream_hashes(tables: EntropyTables) -> dict[str, str]:
    """Hashes of streams of seeded integers; nothing here is floating point."""
    rng = np.random.default_rng(2024)
    y_hat = rng.integers(-25, 26, (10, 6, 4))
    y_hat[rng.random(y_hat.shape) < 0.02] = 3000
    indexes = rng.integers(0, tables.num_scales, y_hat.shape)
    z_symbols = rng.integers(-20, 21, (tables.hyper_channels, 3, 2))
    order = rng.permutation(10)
    scalable = encode_scalable(tables, y_hat, indexes, order, (2, 5, 10))
    return {
        "tables": tables.sha256[:16],
        "y": digest(encode_y(tables, y_hat, indexes)),
        "z": digest(encode_z(tables, z_symbols)),
        "scalable": digest(scalable.data),
        "cut_bytes": str(scalable.cut_bytes),
    }


def codec_hashes(codec: Codec) -> dict[str, str]:
    """As above with a real codec's tables, and what h_s gives in float64: indexes, and means."""
    generator = torch.Generator().manual_seed(2024)
    shape = (1, codec.spec.hyper_channels, 4, 6)
    z_symbols = torch.randint(-8, 9, shape, generator=generator, dtype=torch.int32)
    indexes = codec.indexes(z_symbols)
    hashes = {"indexes": digest(indexes.numpy().tobytes()), "used": str(len(indexes.unique()))}
    means_CHW = codec.gaussians(z_symbols[0].numpy()).means_CHW
    if means_CHW is not None:
        steps = codec.spec.to_stored(means_CHW)
        hashes |= {"means": digest(steps.tobytes()), "different": str(len(np.unique(steps)))}
    return stream_hashes(codec.tables) | hashes


def compare(name: str, found: dict[str, str]) -> None:
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    if os.environ.get("GENERATE_EXPECTED"):
        EXPECTED.parent.mkdir(exist_ok=True)
        text = json.dumps(expected | {name: found}, indent=2, sort_keys=True)
        EXPECTED.write_text(text + "\n")
        return
    assert name in expected, f"no hashes of {name}: run this test with GENERATE_EXPECTED=1 once"
    assert found == expected[name]


def test_streams_of_made_tables() -> None:
    compare("made tables", stream_hashes(made_tables()))


@pytest.mark.skipif(not list(DEMO_FOLDER.glob("*.pth.tar")), reason="no demo codec packaged")
def test_streams_and_indexes_of_the_demo_codec() -> None:
    codec = load_codec(demo=True)
    compare(codec.spec.codec_id, codec_hashes(codec))


def test_streams_indexes_and_means_of_an_archived_codec(tmp_path: Path) -> None:
    zipfile.ZipFile(make_v2.ARCHIVE).extractall(tmp_path)
    split = latent_store.open(tmp_path)["made/train"]
    (codec_id,) = (name for name in split.store.codecs() if split.store.rankings(name))
    codec = codec_from_store(split.store, codec_id)
    assert codec.spec.architecture == "mbt2018-mean"
    stream = CodedSample(split, "s4", codec_id).export(8)
    decoded = unpack_stream(codec, stream)
    y_hat = codec.spec.to_stored(decoded.y_hat_KHW)
    files = {"file": digest(stream.to_bytes()), "y_hat": digest(y_hat.tobytes())}
    compare(codec_id, codec_hashes(codec) | files)


@pytest.mark.skipif(not CODECS.exists(), reason="no ../shared/codecs here")
def test_streams_and_indexes_of_a_shared_codec() -> None:
    codec = load_codec(checkpoint=min(CODECS.glob("*.pth.tar")))
    compare(codec.spec.codec_id, codec_hashes(codec))
