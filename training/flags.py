"""Command line flags from frozen dataclasses: one field, one `--snake_case` flag.

    @dataclass(frozen=True, kw_only=True)
    class LoaderConfig(Flags):
        batch_size: int = flag("images in a step", default=8, least=1)

A field's flag has the field's name, type and default; one of type `tuple[X, ...]` takes several
values. A number has a range, which the command line and the dataclass hold it against alike; it is
0 or more where no other is given. Fields marked `free` may differ between a run and its
continuation with `--resume`, because they do not change what is computed.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from latent_store.console import Number
from latent_store.errors import LatentStoreError

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def flag(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    choices: Collection[str] | None = None,
    free: bool = False,
    least: float = 0,
    most: float | None = None,
    above_least: bool = False,
) -> Any:
    """Returns a dataclass field that is also a flag.

    Args:
        help: One line for `--help`.
        default: Without one the flag is required.
        choices: Allowed values.
        free: Whether a resumed run may change it.
        least, most, above_least: The range of a number, see `Number`.
    """
    limits = {"least": least, "most": most, "above_least": above_least}
    metadata = {"help": help, "choices": choices, "free": free, "limits": limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """A dataclass whose fields are flags.

    Raises:
        LatentStoreError: If a number lies outside its range.
    """

    def __post_init__(self) -> None:
        for name, kind in flag_types(type(self)).items():
            value = getattr(self, name)
            if not isinstance(kind, Number) or value is None:
                continue
            for number in value if isinstance(value, tuple) else (value,):
                if refusal := kind.refusal(number):
                    raise LatentStoreError(f"--{name} {refusal}")


def flag_types(config: type) -> dict[str, Any]:
    """Returns each field's type for argparse: of numbers with their range, of tuples an item's."""
    found = {}
    for field, kind in _fields(config):
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        limits = field.metadata["limits"]
        found[field.name] = Number(kind, **limits) if kind in (int, float) else kind
    return found


def add_flags(parser: argparse.ArgumentParser, config: type, title: str) -> None:
    """Adds a group of flags, one for each field of a dataclass."""
    group, kinds = parser.add_argument_group(title), flag_types(config)
    for field, hint in _fields(config):
        required = field.default is dataclasses.MISSING
        options: dict[str, Any] = {"help": field.metadata["help"], "required": required}
        if not required:
            options["default"] = field.default
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hint) is tuple:
            options |= {"type": kinds[field.name], "nargs": "+"}
        else:
            options |= {"type": kinds[field.name], "choices": field.metadata["choices"]}
        group.add_argument(f"--{field.name}", **options)


def read_flags(args: argparse.Namespace, config: type[Config]) -> Config:
    """Returns the dataclass filled from parsed flags."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(config)}
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def asked_for(config: Any, names: Collection[str]) -> list[str]:
    """Returns those of some fields that have another value than their flags' defaults.

    Whoever gives a default cannot be told from whoever gives nothing.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    known = [name for name in names if name in defaults]
    return [name for name in known if getattr(config, name) != defaults[name]]


def free_fields(*configs: type) -> frozenset[str]:
    """Returns the names of the fields that a resumed run may change."""
    fields = (field for config in configs for field in dataclasses.fields(config))
    return frozenset(field.name for field in fields if field.metadata["free"])


def _fields(config: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Yields each field of a dataclass with its type, X for X | None."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        yield field, hint
