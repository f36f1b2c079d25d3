"""Reads all that a store gives, as digests by name: two stores that give the same are the same."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import latent_store
from latent_store import LatentStore, Split
from latent_store.codec import (
    Codec,
    codec_from_bytes,
    decode_scalable,
    decode_y,
    read_stream_file,
    unpack_stream,
)
from latent_store.components.reader import ComponentReader
from latent_store.components.registry import component_keys
from latent_store.errors import MissingComponentError
from latent_store.format.schema import CodecSpec
from latent_store.shards.index import part_name
from latent_store.tools.decode import decode_gaussians

LATENT_COLUMNS = ("channel_bits", "channel_mean", "channel_rms", "hyper_bits", "overhead_bits")


def contents(url: Path) -> dict[str, list[str]]:
    """Returns, for each split of a whole store, its components' keys."""
    store = latent_store.open(url)
    return {name: component_keys(store.location, name) for name in store.splits()}


def read_everything(
    url: Path, wanted: dict[str, list[str]], streams: Sequence[Path], first: str = ""
) -> dict[str, str]:
    """Opens a store and reads it whole.

    Args:
        url: The store.
        wanted: What it is known to hold (`contents`).
        streams: Stream files that are decoded too.
        first: The key of an object: what it belongs to is read first, so that damage is met soon.

    Returns:
        Digests of values, dtypes and shapes, by name.
    """
    store = latent_store.open(url)
    found: dict[str, str] = {}
    for codec_id in sorted(store.codecs()):
        tables = sorted(store.codec_tables(codec_id).items())
        found[f"{codec_id} tables"] = digest([(name, digest(table)) for name, table in tables])
    for path in streams:
        found[f"stream {path.name}"] = digest(_decoded_stream(store, path))
    for name, keys in sorted(wanted.items(), key=lambda item: item[0] not in first):
        split = store[name]
        found[f"{name} index"] = digest(split.index.to_pylist())
        found[f"{name} plan"] = digest([split.plan.samples_per_shard, split.plan.canvas])
        for key in sorted(keys, key=lambda key: not _touches(first, key)):
            for what, value in read_component(split, key):
                found[f"{name}/{key} {what}"] = digest(value)
    return found


def read_component(split: Split, key: str) -> Iterator[tuple[str, Any]]:
    """Yields everything that a component gives, by name."""
    kind, _, rest = key.partition("/")
    if kind == "labels":
        labels = split.labels()
        yield from _common(split, labels)
        yield "segmentation", labels.read(labels.rows)
    elif kind == "teacher":
        features = split.teacher(rest)
        yield from _common(split, features)
        yield "features", features.read(features.rows)
        yield "checkpoint", split.store.teacher_checkpoint(rest)
    elif kind == "latents":
        yield from _read_latents(split, rest)
    else:
        yield from _read_ranked(split, *rest.split("/"))


def digest(value: Any) -> str:
    """Returns a digest of arrays, bytes, or anything with a repr that tells it apart."""
    if isinstance(value, np.ndarray):
        head = f"{value.dtype.str} {value.shape} ".encode()
        return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()
    data = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(data).hexdigest()


def _touches(first: str, key: str) -> bool:
    return key in first or part_name(key) in first


def _common(split: Split, reader: ComponentReader) -> Iterator[tuple[str, Any]]:
    rows = split.common_rows(reader)
    yield "rows", reader.rows
    yield "common rows", rows
    yield "index", reader.index.to_pylist()
    yield "sizes", split.sizes(rows)
    yield "ids", split.sample_ids(rows)


def _read_latents(split: Split, codec_id: str) -> Iterator[tuple[str, Any]]:
    latents = split.latents(codec_id)
    rows = latents.rows
    yield from _common(split, latents)
    yield "spec", latents.spec
    yield "y_hat", latents.read(rows)
    yield "two channels", latents.read(rows[::-1], [7, 2])
    for name in LATENT_COLUMNS:
        yield name, latents.column(name, rows)
    yield "quality", sorted(latents.quality(rows).items())
    for row in rows.tolist():
        yield f"strings {row}", latents.y_string(row) + latents.z_string(row)
    codec = _codec(split.store.codec_checkpoint(codec_id), latents.spec)
    row = int(rows[-1])
    indexes_CHW = decode_gaussians(codec, latents, row).indexes_CHW
    yield "decoded", decode_y(codec.tables, latents.y_string(row), indexes_CHW)


def _read_ranked(split: Split, codec_id: str, ranking_id: str) -> Iterator[tuple[str, Any]]:
    ranked = split.ranked(ranking_id, codec_id)
    rows = ranked.rows
    yield from _common(split, ranked)
    yield "ranking", ranked.ranking
    yield "y_hat", ranked.read(rows)
    yield "8 channels", ranked.read(rows[::-1], 8)
    yield "cut bytes", ranked.cut_bytes(rows)
    latents = split.latents(codec_id)
    codec = _codec(split.store.codec_checkpoint(codec_id), latents.spec)
    for row in rows.tolist():
        yield f"strings {row}", b"".join(ranked.scalable_string(row, cut) for cut in ranked.cuts)
    row, cut, order = int(rows[0]), ranked.cuts[0], ranked.ranking.order
    indexes_CHW = decode_gaussians(codec, latents, row).indexes_CHW
    prefix = ranked.scalable_string(row, cut)
    decoded_KHW = decode_scalable(codec.tables, prefix, indexes_CHW, order, cut)
    ranked.check_symbols(row, decoded_KHW, indexes_CHW[list(order[:cut])])
    yield "decoded", decoded_KHW


def _decoded_stream(store: LatentStore, path: Path) -> np.ndarray:
    stream = read_stream_file(path)
    known = {spec.digest: name for name, spec in store.codecs().items()}
    if stream.codec_digest not in known:
        raise MissingComponentError(f"{store.url} does not have the codec of {path.name}")
    codec_id = known[stream.codec_digest]
    codec = _codec(store.codec_checkpoint(codec_id), store.codec(codec_id))
    return unpack_stream(codec, stream).full()


@functools.lru_cache(maxsize=8)
def _codec(checkpoint: bytes, spec: CodecSpec) -> Codec:
    """Builds a codec once for the same bytes; that they are the codec's own is checked before."""
    return codec_from_bytes(checkpoint, expected=spec)
