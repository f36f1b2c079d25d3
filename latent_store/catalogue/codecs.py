"""Codecs that a store knows: their identity, their CDF tables and their weights.

The weights lie in the store as the checkpoint file itself, so that a stream is decodable for as
long as the store exists, whatever happens to the place they came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from latent_store.errors import IdentityError, IntegrityError, MissingComponentError
from latent_store.format.schema import CodecSpec
from latent_store.storage import groups, records, small_groups
from latent_store.storage.location import CONTROL, Location
from latent_store.storage.requests import md5_of

_REMEDY = "run encode-to-store with that codec again, which writes it"


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
    path = codec_path(spec.codec_id)
    there = location.sizes(path)
    if groups.metadata_key(path) in there and is_registered(location, spec, tables, checkpoint):
        return
    location.write(checkpoint_key(spec.codec_id), checkpoint)
    small_groups.write(location, path, spec.to_attrs(), tables, _dims(tables), there)


def is_registered(
    location: Location, spec: CodecSpec, tables: Mapping[str, np.ndarray], checkpoint: bytes
) -> bool:
    """Tells whether a codec is there, and whole: what was damaged is to be written again, since the
    weights given are those that the id names.

    Raises:
        IdentityError: As `register_codec` does.
    """
    try:
        known = read_codec(location, spec.codec_id)
        if known is None:
            return False
        known.require_identity(spec.identity, "the codec given")
        if not _is_whole(location, spec.codec_id, tables, checkpoint):
            read_codec_tables(location, spec.codec_id)
            read_codec_checkpoint(location, spec)
    except IntegrityError:
        return False
    return True


def _dims(tables: Mapping[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(f"{name}_{axis}" for axis in range(table.ndim))
        for name, table in tables.items()
    }


def _is_whole(
    location: Location,
    codec_id: str,
    tables: Mapping[str, np.ndarray],
    checkpoint: bytes,
) -> bool:
    """Tells whether an object store says that it holds just what would be written: unread."""
    if location.local_path is not None:
        return False
    wanted = small_groups.made(codec_path(codec_id), tables, _dims(tables))
    wanted[checkpoint_key(codec_id)] = checkpoint
    listed = {**location.listed(codec_path(codec_id)), **location.listed(f"{CONTROL}/codecs")}
    return all(key in listed and listed[key].md5 == md5_of(d) for key, d in wanted.items())


def checkpoint_key(codec_id: str) -> str:
    """Returns the key of a codec's checkpoint file."""
    return f"{CONTROL}/codecs/{codec_id}.pth.tar"


def list_codecs(location: Location) -> dict[str, CodecSpec]:
    """Returns every codec of a store by its id.

    Raises:
        IntegrityError: The attributes of one were altered.
    """
    found = {name: read_codec(location, name) for name in location.folders("codecs")}
    return {name: spec for name, spec in found.items() if spec is not None}


def read_codec(location: Location, codec_id: str) -> CodecSpec | None:
    """Returns one codec; None where it is not there, or not finished.

    Raises:
        IntegrityError: Its attributes were altered, or are another codec's.
    """
    attrs = small_groups.read_attrs(location, codec_path(codec_id), _REMEDY)
    if attrs is None:
        return None
    spec = records.typed(CodecSpec, attrs, f"{location.url}: {codec_path(codec_id)}", _REMEDY)
    if spec.codec_id != codec_id:
        raise IntegrityError(
            f"{location.url}: {codec_path(codec_id)} holds codec {spec.codec_id}; {_REMEDY}"
        )
    return spec


def choose_codec(location: Location, codec_id: str | None) -> CodecSpec:
    """Returns the codec of that id, or the only one where none is named.

    Raises:
        MissingComponentError: It is not there, or there are several; lists them.
        IntegrityError: Its attributes were altered.
    """
    named = None if codec_id is None else read_codec(location, codec_id)
    if named is not None:
        return named
    known = list_codecs(location)
    if codec_id is None and len(known) == 1:
        return next(iter(known.values()))
    names = ", ".join(known) or "none"
    asked = "no codec is named" if codec_id is None else f"there is no codec {codec_id}"
    raise MissingComponentError(f"{location.url}: {asked}; give `codec=` with one of: {names}")


def read_codec_tables(location: Location, codec_id: str) -> dict[str, np.ndarray]:
    """Returns a codec's tables by name; none where there is no such codec.

    Raises:
        IntegrityError: One is missing or was altered.
    """
    attrs = small_groups.read_attrs(location, codec_path(codec_id), _REMEDY)
    if attrs is None:
        return {}
    return small_groups.read_arrays(location, codec_path(codec_id), attrs, _REMEDY)


def read_codec_checkpoint(location: Location, spec: CodecSpec) -> bytes:
    """Returns the bytes of a codec's checkpoint file, checked against its sha256.

    Raises:
        IntegrityError: It is missing or was altered.
    """
    key = checkpoint_key(spec.codec_id)
    try:
        data = location.read(key)
    except FileNotFoundError:
        raise IntegrityError(
            f"{location.url} lacks {key}; copy the codec's checkpoint file there"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != spec.weights_sha256:
        raise IntegrityError(
            f"{key} has sha256 {found[:8]}..., the codec {spec.weights_sha256[:8]}...; restore it"
        )
    return data


def register_teacher(location: Location, teacher_id: str, checkpoint: bytes) -> None:
    """Keeps a teacher's checkpoint in the store: students start from it.

    Raises:
        IdentityError: The id is not this checkpoint's.
    """
    key = teacher_key(teacher_id)
    if not _is_teacher(teacher_id, checkpoint):
        raise IdentityError(
            f"{teacher_id} is the id of another checkpoint: it ends in digits of its sha256"
        )
    if location.read_all([key])[key] != checkpoint:
        location.write(key, checkpoint)


def teacher_key(teacher_id: str) -> str:
    """Returns the key of a teacher's checkpoint file."""
    return f"{CONTROL}/teachers/{teacher_id}.pt"


def list_teachers(location: Location) -> list[str]:
    """Returns the ids of the teachers whose checkpoints the store keeps."""
    names = (key.rsplit("/", 1)[1] for key in location.sizes(f"{CONTROL}/teachers"))
    # What is half written, or was left by a system, begins with a dot or ends otherwise.
    return sorted(n.removesuffix(".pt") for n in names if n.endswith(".pt") and n[0] != ".")


def read_teacher_checkpoint(location: Location, teacher_id: str) -> bytes:
    """Returns the bytes of a teacher's checkpoint file.

    Raises:
        MissingComponentError: The store has no such teacher; lists those it has.
        IntegrityError: The file was altered.
    """
    try:
        data = location.read(teacher_key(teacher_id))
    except FileNotFoundError:
        names = ", ".join(list_teachers(location)) or "none"
        raise MissingComponentError(
            f"{location.url} keeps no teacher {teacher_id} (it has: {names})"
        ) from None
    if not _is_teacher(teacher_id, data):
        raise IntegrityError(
            f"{location.url}: {teacher_key(teacher_id)} does not have the sha256 that its name "
            "gives; run encode-to-store with that `teacher_checkpoint=` again"
        )
    return data


def _is_teacher(teacher_id: str, data: bytes) -> bool:
    """Tells whether a file has the sha256 with whose first digits its id ends."""
    return hashlib.sha256(data).hexdigest().startswith(teacher_id.rsplit("-", 1)[-1])


def codec_path(codec_id: str) -> str:
    """Returns the path of a codec's group."""
    return f"codecs/{codec_id}"
