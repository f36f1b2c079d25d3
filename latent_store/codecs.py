"""Codecs that a store knows: their identity, their CDF tables and their weights.

The weights lie in the store as the checkpoint file itself, so that a stream is decodable for as
long as the store exists, whatever happens to the place they came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from latent_store import groups
from latent_store.errors import IdentityError, IntegrityError, MissingComponentError
from latent_store.location import CONTROL, Location
from latent_store.schema import CodecSpec


def register_codec(
    location: Location, spec: CodecSpec, tables: Mapping[str, np.ndarray], checkpoint: bytes
) -> None:
    """Adds a codec to a store, or checks the one that is there.

    Args:
        location: The store.
        spec: The codec's identity.
        tables: Quantised CDF tables and what else decoding needs, by name.
        checkpoint: The bytes of its checkpoint file.

    Raises:
        IdentityError: A codec of that id is there with another identity.
    """
    path = f"codecs/{spec.codec_id}"
    existing = groups.open_group(location, path)
    if existing is not None and existing.attrs.get("complete"):
        known = CodecSpec.from_attrs(dict(existing.attrs))
        known.require_identity(spec.identity, "the codec given")
        return
    group = groups.make_groups(location, path)
    location.write(checkpoint_key(spec.codec_id), checkpoint)
    for name, table in tables.items():
        dims = tuple(f"{name}_{axis}" for axis in range(table.ndim))
        array = group.create_array(
            name, shape=table.shape, dtype=table.dtype, dimension_names=dims, overwrite=True
        )
        array[...] = table
    group.attrs.put({**spec.to_attrs(), "complete": True})


def checkpoint_key(codec_id: str) -> str:
    """Returns the key of a codec's checkpoint file."""
    return f"{CONTROL}/codecs/{codec_id}.pth.tar"


def list_codecs(location: Location) -> dict[str, CodecSpec]:
    """Returns every codec of a store by its id."""
    found = {
        name: groups.open_group(location, f"codecs/{name}")
        for name in groups.child_names(location, "codecs")
    }
    return {
        name: CodecSpec.from_attrs(dict(group.attrs))
        for name, group in found.items()
        if group is not None and group.attrs.get("complete")
    }


def choose_codec(location: Location, codec_id: str | None) -> CodecSpec:
    """Returns the codec of that id, or the only one where none is named.

    Raises:
        MissingComponentError: It is not there, or there are several; lists them.
    """
    known = list_codecs(location)
    if codec_id is None and len(known) == 1:
        return next(iter(known.values()))
    if codec_id in known:
        return known[codec_id]
    names = ", ".join(known) or "none"
    asked = "no codec is named" if codec_id is None else f"there is no codec {codec_id}"
    message = f"{location.url}: {asked}; give --codec with one of: {names}"
    raise MissingComponentError(message)


def read_codec_tables(location: Location, codec_id: str) -> dict[str, np.ndarray]:
    """Returns a codec's tables by name."""
    group = groups.open_group(location, f"codecs/{codec_id}")
    return {} if group is None else {name: array[...] for name, array in group.arrays()}


def read_codec_checkpoint(location: Location, spec: CodecSpec) -> bytes:
    """Returns the bytes of a codec's checkpoint file, checked against its sha256.

    Raises:
        IntegrityError: It is missing or was altered.
    """
    key = checkpoint_key(spec.codec_id)
    try:
        data = location.read(key)
    except FileNotFoundError:
        message = f"{location.url} lacks {key}; copy the codec's checkpoint file there"
        raise IntegrityError(message) from None
    found = hashlib.sha256(data).hexdigest()
    if found != spec.weights_sha256:
        message = (
            f"{key} has sha256 {found[:8]}..., the codec {spec.weights_sha256[:8]}...; restore it"
        )
        raise IntegrityError(message)
    return data


def register_teacher(location: Location, teacher_id: str, checkpoint: bytes) -> None:
    """Keeps a teacher's checkpoint in the store: students start from it.

    Raises:
        IdentityError: Another checkpoint lies under that id.
    """
    key = teacher_key(teacher_id)
    if not location.exists(key):
        location.write(key, checkpoint)
    elif location.read(key) != checkpoint:
        message = f"{key} holds another checkpoint; a teacher's id is made from its sha256"
        raise IdentityError(message)


def teacher_key(teacher_id: str) -> str:
    """Returns the key of a teacher's checkpoint file."""
    return f"{CONTROL}/teachers/{teacher_id}.pt"


def list_teachers(location: Location) -> list[str]:
    """Returns the ids of the teachers whose checkpoints the store keeps."""
    keys = location.sizes(f"{CONTROL}/teachers")
    return sorted(key.rsplit("/", 1)[1].removesuffix(".pt") for key in keys)


def read_teacher_checkpoint(location: Location, teacher_id: str) -> bytes:
    """Returns the bytes of a teacher's checkpoint file.

    Raises:
        MissingComponentError: The store has no such teacher; lists those it has.
    """
    try:
        return location.read(teacher_key(teacher_id))
    except FileNotFoundError:
        names = ", ".join(list_teachers(location)) or "none"
        message = f"{location.url} keeps no teacher {teacher_id} (it has: {names})"
        raise MissingComponentError(message) from None
