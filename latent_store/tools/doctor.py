"""`latent-store doctor`: what is installed here, what it runs on, and what to do about problems.

Nothing is changed, and no package that is missing is needed to say so.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from latent_store.codec.families.registry import FAMILIES
from latent_store.console import DISTRIBUTION, version
from latent_store.errors import LatentStoreError
from latent_store.storage.location import Location

OK, PROBLEM, ABSENT = "ok", "problem", "absent"
EXTRAS = ("xarray", "codec", "train", "beam", "s3", "gcs", "completion")
"""Those that somebody who uses the commands may lack."""
LITTLE_DISK = 5 * 2**30
"""Bytes; a checkpoint of ResNet-50 with what resuming needs has half a GiB."""
_ZOO_FILE = re.compile(rf"({'|'.join(map(re.escape, FAMILIES))})-.+\.pth\.tar")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        state: `ok`, `problem`, or `absent` for what is optional.
        found: What there is, in words.
        remedy: What to do; "" where nothing is to be done.
    """

    name: str
    state: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = self.state.upper() if self.state != ABSENT else "-"
        return f"{mark:<8} {self.name:<14} {self.found}" + "; " * bool(self.remedy) + self.remedy


def examine(location: Location | None = None) -> Iterator[Finding]:
    """Yields what is found: Python, packages, torch's pair, GPU, bf16, disk, and cached codecs.

    Args:
        location: A store, whose disk is looked at instead of that of the working folder.
    """
    yield _python()
    yield from _packages()
    torch = _imported("torch")
    if isinstance(torch, Finding):
        yield torch
    elif torch is not None:
        yield _pair(torch)
        yield from _devices(torch)
        yield _codec_cache(Path(torch.hub.get_dir()) / "checkpoints")
    yield _disk(location)


def _python() -> Finding:
    found = f"{sys.version.split()[0]}, {DISTRIBUTION} {version()}"
    fine = sys.version_info >= (3, 11)
    return Finding(
        name="python",
        state=OK if fine else PROBLEM,
        found=found,
        remedy="" if fine else "install Python 3.11 or 3.12",
    )


def _packages() -> Iterator[Finding]:
    """Yields every package of the distribution's own list, with the extra that brings it."""
    try:
        listed = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        remedy = f"pip install '{DISTRIBUTION}[beam,xarray]', or run it where that was done"
        yield Finding(name=DISTRIBUTION, state=PROBLEM, found="not installed", remedy=remedy)
        return
    seen: set[str] = set()
    for extra in ("", *EXTRAS):
        for requirement in map(Requirement, listed):
            marker = requirement.marker
            wanted = marker is None if not extra else marker and marker.evaluate({"extra": extra})
            if not wanted or requirement.name in {*seen, DISTRIBUTION}:
                continue
            seen.add(requirement.name)
            yield _package(requirement, extra)


def _package(requirement: Requirement, extra: str) -> Finding:
    name = requirement.name
    install = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        state = ABSENT if extra else PROBLEM
        return Finding(name=name, state=state, found="not installed", remedy=install)
    if requirement.specifier.contains(found, prereleases=True):
        return Finding(name=name, state=OK, found=found)
    return Finding(
        name=name,
        state=PROBLEM,
        found=f"{found}, and {requirement.specifier} is needed",
        remedy=f"pip install '{name}{requirement.specifier}'",
    )


def _imported(name: str) -> Any:
    """Returns a module; None where it is not installed, a finding where it is and fails."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        reason = str(error)
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
    return Finding(
        name=name,
        state=PROBLEM,
        found=f"is installed, and its import fails ({reason})",
        remedy="install torch and torchvision together, from the same index",
    )


def _pair(torch: Any) -> Finding:
    torchvision = _imported("torchvision")
    if isinstance(torchvision, Finding):
        return torchvision
    if torchvision is None:
        return Finding(
            name="torch pair",
            state=ABSENT,
            found=f"torch {torch.__version__} without torchvision",
            remedy=f"pip install '{DISTRIBUTION}[train]' to train",
        )
    found = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    needed = [Requirement(r) for r in metadata.requires("torchvision") or []]
    wanted = next((r.specifier for r in needed if r.name == "torch"), None)
    plain = torch.__version__.partition("+")[0]
    if wanted is None or wanted.contains(plain, prereleases=True):
        return Finding(name="torch pair", state=OK, found=found)
    return Finding(
        name="torch pair",
        state=PROBLEM,
        found=f"{found}, which is built for torch {wanted}",
        remedy="install torch and torchvision together, from the same index",
    )


def _devices(torch: Any) -> Iterator[Finding]:
    """Yields each GPU, and whether bfloat16 is multiplied natively."""
    from latent_store.codec.numerics import multiplies_bf16

    count = torch.cuda.device_count()
    for index in range(count):
        known = torch.cuda.get_device_properties(index)
        found = f"{known.name}, {known.total_memory / 2**30:.0f} GiB"
        yield Finding(name=f"cuda:{index}", state=OK, found=found)
    if not count and shutil.which("nvidia-smi"):
        yield Finding(
            name="GPU",
            state=PROBLEM,
            found=f"there is a driver, and torch {torch.__version__} sees no GPU",
            remedy="install torch's CUDA build, or look at CUDA_VISIBLE_DEVICES",
        )
    elif not count:
        yield Finding(name="GPU", state=ABSENT, found="none; everything runs on the CPU")
    device = torch.device("cuda" if count else "cpu")
    native = multiplies_bf16(device)
    found = f"{device.type} multiplies it natively" if native else f"{device.type} emulates it"
    remedy = "" if native else "leave --amp auto, or off"
    yield Finding(name="bf16", state=OK if native else ABSENT, found=found, remedy=remedy)


def _codec_cache(folder: Path) -> Finding:
    files = sorted(folder.glob("*.pth.tar")) if folder.is_dir() else []
    cached = [path.name for path in files if _ZOO_FILE.fullmatch(path.name)]
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(parent, os.W_OK)
    found = f"{folder}: {', '.join(cached) or 'empty, --quality downloads into it'}"
    return Finding(
        name="codec cache",
        state=OK if writable or cached else PROBLEM,
        found=found if writable else f"{found}; cannot be written",
        remedy="" if writable or cached else "set TORCH_HOME to a folder of yours",
    )


def _disk(location: Location | None) -> Finding:
    folder = Path.cwd() if location is None else location.local_path
    if folder is None:
        what = f"{location.url if location else ''} is no folder of this machine"
        return Finding(name="disk", state=OK, found=what)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise LatentStoreError(f"cannot look at the disk of {there}: {error}") from error
    return Finding(
        name="disk",
        state=OK if free >= LITTLE_DISK else PROBLEM,
        found=f"{free / 2**30:.1f} GiB free at {there}",
        remedy="" if free >= LITTLE_DISK else "free some; encode-to-store --dry_run says how much",
    )
