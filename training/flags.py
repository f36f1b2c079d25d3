"""Command line flags from frozen dataclasses: one field, one `--snake_case` flag.

    @dataclass(frozen=True, kw_only=True)
    class LoaderConfig:
        batch_size: int = flag("images in a step", default=8)

A field's flag has the field's name, type and default; one of type `tuple[X, ...]` takes several
values. Fields marked `free` may differ between a run and its continuation with `--resume`, because
they do not change what is computed.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Collection
from typing import Any, TypeVar

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def flag(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    choices: Collection[str] | None = None,
    free: bool = False,
) -> Any:
    """Returns a dataclass field that is also a flag.

    Args:
        help: One line for `--help`.
        default: The default; without one the flag is required.
        choices: Allowed values.
        free: Whether a resumed run may change it.
    """
    metadata = {"help": help, "choices": choices, "free": free}
    return dataclasses.field(default=default, metadata=metadata)


def add_flags(parser: argparse.ArgumentParser, config: type, title: str) -> None:
    """Adds a group of flags, one for each field of a dataclass."""
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = _plain_type(hints[field.name])
        options: dict[str, Any] = {"help": field.metadata["help"]}
        if field.default is dataclasses.MISSING:
            options["required"] = True
        else:
            options["default"] = field.default
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            options |= {"type": typing.get_args(kind)[0], "nargs": "+"}
        else:
            options |= {"type": kind, "choices": field.metadata["choices"]}
        group.add_argument(f"--{field.name}", **options)


def read_flags(args: argparse.Namespace, config: type[Config]) -> Config:
    """Returns the dataclass filled from parsed flags."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(config)}
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def free_fields(*configs: type) -> frozenset[str]:
    """Returns the names of the fields that a resumed run may change."""
    fields = (field for config in configs for field in dataclasses.fields(config))
    return frozenset(field.name for field in fields if field.metadata["free"])


def _plain_type(hint: Any) -> Any:
    """Returns X for X | None."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint
