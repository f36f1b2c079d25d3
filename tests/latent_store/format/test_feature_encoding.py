"""Each encoding of features keeps its precision, and Zarr is told of core codecs only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_store.components.features import FeaturesRecord
from latent_store.errors import CapacityError, LatentStoreError
from latent_store.format.feature_encoding import BITROUND, FLOAT16, KEEPBITS, FeatureEncoding
from latent_store.storage.records import typed
from tests.conftest import TinyStore

CORE_CODECS = {"bytes", "zstd", "blosc", "crc32c", "sharding_indexed"}


def made_features(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.normal(size=(3, 8, 8)), 0) * np.logspace(-2, 3, 3)[:, None, None]
    return values.astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_rounded_features_are_the_nearest_of_so_many_bits(seed: int, bits: int) -> None:
    features = made_features(seed)
    stored = FeatureEncoding(name=BITROUND, keepbits=bits).encode(features)["features"]
    assert stored.dtype == np.float16
    # Below float16's smallest normal number fewer bits are left.
    normal = features >= np.finfo(np.float16).tiny
    error = np.abs(stored.astype(np.float64) - features)[normal]
    assert (error <= features[normal] * 2.0 ** -(bits + 1)).all()
    assert not (stored[normal].view(np.uint16) & ((1 << (10 - bits)) - 1)).any()


@given(st.integers(0, 2**32 - 1))
def test_uint8_features_are_right_to_half_a_step(seed: int) -> None:
    features = made_features(seed)
    features[1] = 0
    stored = FeatureEncoding().encode(features)
    scale = stored["feature_scale"][:, None, None]
    assert (np.abs(stored["features"] * scale - features) <= 0.5001 * scale).all()
    assert not stored["features"][1].any()


def test_what_may_be_negative_is_never_stored_without_its_sign() -> None:
    assert str(FeatureEncoding.chosen(None, signed=False)) == "uint8"
    signed = FeatureEncoding.chosen(None, signed=True)
    assert signed == FeatureEncoding.named(BITROUND)
    features = made_features(1)
    features[2] -= 3
    stored = signed.encode(features)["features"].astype(np.float32)
    np.testing.assert_allclose(stored, features, rtol=2.0**-KEEPBITS, atol=1e-4)
    with pytest.raises(CapacityError, match=r"a feature of -\S+ has a sign, which uint8 has not"):
        FeatureEncoding().encode(features)
    with pytest.raises(CapacityError, match=r"may be negative, .*=float16-bitround"):
        FeatureEncoding.chosen("uint8", signed=True)
    for no_number in (np.nan, np.inf):
        broken = made_features(1)
        broken[0, 0, 0] = no_number
        with pytest.raises(CapacityError, match=f"to {no_number}: the teacher gave what is no num"):
            FeatureEncoding().encode(broken)


@pytest.mark.parametrize("name", ["uint8", FLOAT16, BITROUND])
def test_attributes_give_back_the_encoding(name: str) -> None:
    encoding = FeatureEncoding.named(name)
    record = typed(FeaturesRecord, encoding.to_attrs(), "attributes", "")
    assert record.encoding(encoding.dtype) == encoding
    if name != BITROUND:
        assert FeaturesRecord().encoding(encoding.dtype) == encoding


def test_encodings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(LatentStoreError, match="uint8, float16, float16-bitround, got 'int4'"):
        FeatureEncoding(name="int4")
    with pytest.raises(LatentStoreError, match="no other has keepbits, got uint8, 3"):
        FeatureEncoding(keepbits=3)
    with pytest.raises(LatentStoreError, match="1 to 10 mantissa bits, got 11"):
        FeatureEncoding(name=BITROUND, keepbits=11)


@pytest.mark.parametrize("encoding", [FLOAT16, BITROUND])
@pytest.mark.parametrize("value", [1e6, np.nan])
def test_a_feature_beyond_float16_is_refused(encoding: str, value: float) -> None:
    features = made_features(0)
    features[0, 0, 0] = value
    wide = FeatureEncoding.named(encoding)
    with pytest.raises(CapacityError, match="is beyond float16; encode with `teacher_dtype=uint8`"):
        wide.encode(features)


def codec_names(node: object) -> set[str]:
    """Every codec that an array's metadata names, those within shards included."""
    if isinstance(node, list):
        return set().union(*map(codec_names, node))
    if not isinstance(node, dict):
        return set()
    inner = set().union(*map(codec_names, node.values()))
    return inner | ({node["name"]} if "configuration" in node or "name" in node else set())


def array_codecs(store: Path) -> dict[str, set[str]]:
    found = {}
    for path in store.rglob("zarr.json"):
        metadata = json.loads(path.read_text())
        if metadata["node_type"] == "array":
            found[str(path.parent.relative_to(store))] = codec_names(metadata["codecs"])
    return found


def test_every_array_names_core_codecs_only(tiny_store: TinyStore) -> None:
    found = array_codecs(tiny_store.url)
    assert any(name.endswith("/features") for name in found)
    assert {name: names - CORE_CODECS for name, names in found.items() if names - CORE_CODECS} == {}
    # What the codecs' own tables are compressed with is Zarr's choice; data end in a checksum.
    data = {n: c for n, c in found.items() if n.startswith("cityscapes/")}
    assert all("crc32c" in names for names in data.values()), data


def test_usual_rounding_is_recorded() -> None:
    attrs = FeatureEncoding.named(BITROUND).to_attrs()
    assert attrs == {"feature_encoding": "float16-bitround", "feature_keepbits": KEEPBITS}
