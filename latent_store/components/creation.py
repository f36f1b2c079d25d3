"""Makes stores, and components in them: groups and arrays, once, by the job that owns them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from latent_store.components.base import (
    PENDING,
    is_readable,
    note,
    noted,
    open_component,
    read_record,
)
from latent_store.errors import IdentityError, IntegrityError
from latent_store.format import layout, schema
from latent_store.format.plan import ShardPlan
from latent_store.format.schema import ArraySpec, ComponentSpec
from latent_store.shards import receipts
from latent_store.storage import drafts, groups
from latent_store.storage.consolidated import pictured_arrays
from latent_store.storage.location import Location

CREATED_BY = "latent-store 0.1"
Arrays = dict[str, dict[str, Any]]
"""Path of an array below its component's group -> its metadata."""


def create_store(location: Location) -> bool:
    """Makes an empty store, or checks the one that is there; tells whether it was made."""
    marks = {
        "encoding-type": schema.FORMAT_NAME,
        "encoding-version": schema.FORMAT_VERSION,
        "created_by": CREATED_BY,
    }
    found = groups.open_group(location)
    group = groups.make_groups(location, "", marks) if found is None else found
    location.note_group(groups.metadata_key(""))
    if not group.attrs:
        groups.update_attrs(location, "", marks)
    else:
        schema.check_format(groups.attrs_of(group), location.url)
    return found is None


def create_component(
    location: Location,
    plan: ShardPlan,
    spec: ComponentSpec,
    notes: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {},
    *,
    empty: bool = False,
) -> Arrays:
    """Makes a component's group and arrays, or widens their sample axis after an append.

    Nothing is written into the arrays. What is there is kept, and stays readable if it is finished;
    a component of another identity at the same place is refused.

    Args:
        location: The store.
        plan: The split's plan.
        spec: The component.
        notes: Returns what its job notes of it beside, given the attributes that it has.
        empty: No shard of it was ever finished, as far as receipts tell: where its group is missing
            too, its arrays are made anew, whatever is left of them.

    Returns:
        The metadata of its arrays, as it lies there.

    Raises:
        IdentityError: The component exists with other attributes or another dtype.
        FormatVersionError: What is there is no such component, or of a newer major version.
        IntegrityError: The metadata of one of its arrays was altered.
    """
    base = f"{plan.name}/{spec.key}"
    group = groups.open_group(location, base)
    lengths = {"num_rows": plan.num_rows, "num_shards": plan.num_shards}
    stored: dict[str, dict[str, Any] | None] = {}
    if group is not None:
        _require_same_spec(group, spec)
        if is_readable(location, group):
            note(location, base, {**_marks(spec), **lengths, **notes(noted(group))})
    # Repairs may have removed the group alone.
    if group is not None or (not empty and location.sizes(base)):
        stored = _stored_arrays(location, group, base, spec)
    arrays = _wanted_arrays(spec, plan, stored, base)
    digests = {name: groups.metadata_crc32c(array, growing=True) for name, array in arrays.items()}
    marks = {**_marks(spec), "arrays": digests, "complete": False, **lengths}
    parents = sorted({name.rpartition("/")[0] for name in spec.ranks} - {""})
    if group is None or location.local_path is not None:
        group = groups.make_groups(location, base, {**marks, **notes({})})
        for parent in parents:
            groups.ensure_groups(location, f"{base}/{parent}")
    changed = {name: array for name, array in arrays.items() if array != stored.get(name)}
    location.write_all(
        {groups.metadata_key(f"{base}/{n}"): groups.written(a) for n, a in changed.items()}
    )
    if not is_readable(location, group):
        changes = {**marks, **notes(groups.attrs_of(group))}
        groups.update_attrs(location, base, changes, without=[PENDING])
    return arrays


def read_arrays(location: Location, split: str, spec: ComponentSpec) -> Arrays:
    """Returns the metadata of a component's arrays, as it lies there.

    Raises:
        MissingComponentError: There is no such component.
        IntegrityError: One is missing or was altered.
    """
    group = open_component(location, split, spec.key)
    found = _stored_arrays(location, group, group.path, spec)
    there = {name: array for name, array in found.items() if array is not None}
    for name in spec.ranks.keys() - there.keys():
        raise IntegrityError(
            f"{location.url} lacks the array {group.path}/{name}; {groups.repair_hint(location)}"
        )
    return there


def _stored_arrays(
    location: Location, group: zarr.Group | None, base: str, spec: ComponentSpec
) -> dict[str, dict[str, Any] | None]:
    """Returns the metadata of each array that a component has; None of one that is not there."""
    recorded = {} if group is None else read_record(location, group).arrays
    # An object store need not be asked for what the group shows with the digest that it has.
    known = pictured_arrays(location, base, recorded) if location.local_path is None else {}
    unread = [f"{base}/{name}" for name in spec.ranks if name not in known]
    found = groups.read_all_metadata(location, unread)
    stored = {name: known.get(name) or found.get(f"{base}/{name}") for name in spec.ranks}
    for name, array in stored.items():
        if array is not None and name in recorded:
            groups.array_of(location, f"{base}/{name}", array, recorded[name], growing=True)
    return stored


def _wanted_arrays(
    spec: ComponentSpec, plan: ShardPlan, stored: Mapping[str, dict[str, Any] | None], base: str
) -> Arrays:
    """Returns the metadata of arrays as a component of a plan must have it: what is stored, made
    longer where it is too short, or new."""
    found = {}
    for name, how in _made_arrays(spec, plan).items():
        there = stored.get(name)
        if there is None:
            found[name] = json.loads(drafts.array_metadata(**how))
            continue
        shape, dtype = there["shape"], there.get("data_type")
        if dtype != how["dtype"] or tuple(shape[1:]) != tuple(how["shape"][1:]):
            raise IdentityError(
                f"{base}/{name} is {dtype}{tuple(shape[1:])} a row, this job would write "
                f"{how['dtype']}{tuple(how['shape'][1:])}; use the same inputs, or another store"
            )
        length = max(shape[0], how["shape"][0])
        found[name] = {**there, "shape": [length, *shape[1:]]}
    return found


def forget_component(location: Location, split: str, key: str) -> None:
    """Removes a component, its receipts first; `split` is `dataset/split`."""
    if groups.open_group(location, f"{split}/{key}") is not None:
        groups.update_attrs(location, f"{split}/{key}", {"complete": False}, without=[PENDING])
    location.delete_tree(receipts.receipt_prefix(split, key))
    location.delete_tree(f"{split}/{key}")


def _marks(spec: ComponentSpec) -> dict[str, Any]:
    return {
        "encoding-type": f"{schema.FORMAT_NAME}/{spec.kind}",
        "encoding-version": spec.version,
        **spec.attrs,
        **({"origin": dict(spec.origin)} if spec.origin else {}),
    }


def _require_same_spec(group: zarr.Group, spec: ComponentSpec) -> None:
    existing = groups.attrs_of(group)
    if existing:
        schema.check_format(existing, group.path, kind=spec.kind)
    for name, value in _marks(spec).items():
        if name in existing and not _agrees(name, existing[name], value):
            raise IdentityError(
                f"{group.path} was written with {name} = {existing[name]!r}, this job would write "
                f"{value!r}; use the same inputs, or another store"
            )


def _agrees(name: str, found: Any, wanted: Any) -> bool:
    if name != "encoding-version":
        return bool(found == wanted)
    # Minor versions only add: what an older one began, this one may go on with.
    (major, minor), newest = (tuple(map(int, str(text).split("."))) for text in (found, wanted))
    return major == newest[0] and minor <= newest[1]


def _made_arrays(spec: ComponentSpec, plan: ShardPlan) -> dict[str, dict[str, Any]]:
    """Returns what each array of a component is made with, by its name."""
    made = {array.name: _array(array, plan) for array in spec.arrays}
    for stream in spec.streams:
        capacity = layout.stream_row_bytes(stream, plan.samples_per_shard)
        made[stream.data] = {
            "shape": (plan.num_shards, capacity),
            "dtype": "uint8",
            "fill_value": 0,
            "chunks": (1, layout.STREAM_CHUNK),
            "shards": (1, capacity),
            # Entropy-coded bytes do not compress again, but the rest of their last chunk does.
            "compressors": (ZstdCodec(level=1), Crc32cCodec()),
            "dimension_names": ("shard", f"{stream.name.rpartition('/')[2]}_byte"),
        }
        made |= {column.name: _array(column, plan) for column in stream.columns}
    return made


def _array(spec: ArraySpec, plan: ShardPlan) -> dict[str, Any]:
    chunks, shards = layout.chunk_shapes(spec, plan.samples_per_shard)
    return {
        "shape": (plan.num_rows, *spec.shape),
        "dtype": spec.dtype,
        "fill_value": 0,
        "chunks": chunks,
        "shards": shards,
        "compressors": _compressors(spec),
        "dimension_names": ("sample", *spec.dims),
        "attributes": dict(spec.attrs),
    }


def _compressors(spec: ArraySpec) -> tuple[Any, ...]:
    if np.dtype(spec.dtype) in (np.int16, np.float16):
        # int16 latents are mostly zero bytes, and rounded mantissas end in zeros: shuffling bits
        # beats a higher level.
        return (BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle"), Crc32cCodec())
    return (ZstdCodec(level=spec.level), Crc32cCodec())
