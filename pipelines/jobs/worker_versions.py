"""Versions that launcher and workers must have in common, told in one line where they differ."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from latent_store.console import DISTRIBUTION
from latent_store.errors import JobFailedError

ALIKE = (DISTRIBUTION, "compressai")
"""Distributions: of what is sent, and of the coder that defines streams."""
BEAM = "apache-beam"
_NONE = "none"


@functools.cache
def versions(*more: str) -> dict[str, str]:
    """Returns this process's versions: Python's first two numbers, and `ALIKE`'s and `more`'s."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, **{name: _version(name) for name in (*ALIKE, *more)}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _NONE


@dataclass(frozen=True)
class AlikeWork:
    """Work on a shard that a worker begins only where its versions are the launcher's.

    Made by the launcher, called by the worker, before which nothing of a shard is written.

    Attributes:
        work: What is done with a shard's number.
        wanted: The launcher's versions.
    """

    work: Callable[[int], Any]
    wanted: Mapping[str, str] = field(default_factory=lambda: versions(BEAM))

    def __call__(self, shard: int) -> Any:
        """Returns what the work gives.

        Raises:
            JobFailedError: A version differs; with both.
        """
        found = versions(*(name for name in self.wanted if name not in ("Python", *ALIKE)))
        for name, value in self.wanted.items():
            if found[name] != value:
                raise JobFailedError(
                    f"a worker on {platform.node()} has {name} {found[name]}, this process "
                    f"{value}: let both have the same"
                )
        return self.work(shard)
