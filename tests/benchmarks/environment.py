"""The circumstances of a measurement: machine, versions, load."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


def one_thread() -> dict[str, str]:
    """Returns an environment in which a process computes with one thread, that sleeps to wait."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def conditions(packages: Iterable[str]) -> str:
    """Returns day, processor, load and versions, one line without a full stop."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({processor()}), load "
        f"{os.getloadavg()[1]:.1f}, Python {platform.python_version()}, {versions}"
    )


def processor() -> str:
    """Returns the processor's name, or its architecture where it tells none."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
