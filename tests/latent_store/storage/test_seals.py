"""Digests of JSON are the same whichever way they are computed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from latent_store.storage.records import seal_record
from latent_store.storage.seals import CRC32C, floatless_crc32c, has_crc32c, json_crc32c

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
FLOATS = st.floats()


def values(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)

    return st.recursive(leaves, wider, max_leaves=12)


@given(values(SCALARS | FLOATS))
def test_a_value_has_its_digest_and_no_other(value: Any) -> None:
    digest, data = json_crc32c(value), json.dumps(value).encode()
    assert has_crc32c(data, value, digest)
    assert not has_crc32c(data, value, digest ^ 1)
    assert not has_crc32c(data, value, None)


def test_what_is_not_finite_is_not_null() -> None:
    value = [float("nan")]
    assert not has_crc32c(json.dumps(value).encode(), value, json_crc32c([None]))


@given(values(SCALARS))
def test_without_floats_the_quick_digest_is_the_same(value: Any) -> None:
    parts = value if isinstance(value, list) else [value]
    for size in (1, 2, 9):
        chunks = (parts[n : n + size] for n in range(0, len(parts), size))
        assert floatless_crc32c(chunks) == json_crc32c(parts)


@given(st.dictionaries(TEXT.filter(lambda name: name != CRC32C), values(SCALARS | FLOATS)))
def test_a_record_is_laid_out_as_python_does(record: dict[str, Any]) -> None:
    expected = {CRC32C: json_crc32c(record), **record}
    assert seal_record(record) == json.dumps(expected, indent=1).encode()
