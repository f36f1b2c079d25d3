"""Local files that are replaced whole, and what killed processes leave of their writing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from latent_store.storage.changes import tell

LEFTOVER = r"\.[0-9a-f]{8}(\.\w+)?"
"""The end of a local file's name while it is being written, after a dot and the file's name."""
_ANY_LEFTOVER = re.compile(rf"\..+{LEFTOVER}")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Where a file system has no hard links, as exFAT and some of FUSE and SMB."""


def write_atomically(
    target: Path, data: bytes, *, durable: bool = True, replace: bool = True
) -> None:
    """Writes a local file whole: to a neighbour first, then renamed over it.

    Args:
        target: The file.
        data: Its content.
        durable: Flush it to the disk before it is renamed.
        replace: Whether a file that is there is replaced. Where a file system has no hard links,
            one that is made is empty for a moment.

    Raises:
        FileExistsError: A file is there, and `replace` is false.
    """
    remove_leftovers(target)
    # Another process that begins now may take the neighbour for what a killed one left.
    while not _place(target, data, durable=durable, replace=replace):
        pass


def _place(target: Path, data: bytes, *, durable: bool, replace: bool) -> bool:
    """Writes a file beside its place and moves it there; False where it was removed meanwhile."""
    # Without the target's suffix: what a killed process leaves is taken for nothing of its kind.
    with _neighbour(target, "") as neighbour:
        with neighbour.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        tell("replace" if replace else "link", target)
        try:
            if replace:
                neighbour.replace(target)
            else:
                _link(neighbour, target)
        except FileNotFoundError:
            if not target.parent.is_dir():
                raise
            return False
    return True


@contextlib.contextmanager
def _neighbour(target: Path, suffix: str) -> Iterator[Path]:
    """Yields a path beside a file's place, to write to; what is there at the end is removed."""
    neighbour = target.with_name(f".{target.name}.{uuid4().hex[:8]}{suffix}")
    try:
        tell("write", neighbour)
        try:
            yield neighbour
        finally:
            remove(neighbour)
    except BaseException:
        # It may be there still, and goes when the file is next written.
        _left_in.cache_clear()
        raise


def _link(neighbour: Path, target: Path) -> None:
    """Moves a file to a place where none is."""
    try:
        os.link(neighbour, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Whoever makes the empty file has the place; it is empty until the next call is done.
        target.open("xb").close()
        try:
            neighbour.replace(target)
        except BaseException:
            remove(target)
            raise


def write_text(target: Path, text: str) -> None:
    """Writes a local text file whole, and makes its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, text.encode())


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a neighbour's path to write to; it takes `target`'s place if nothing is raised."""
    remove_leftovers(target)
    with _neighbour(target, target.suffix) as neighbour:
        yield neighbour
        tell("replace", target)
        neighbour.replace(target)


def sizes_below(top: str) -> dict[str, int]:
    """Lists every file below a local folder, by its path, with its length in bytes.

    As fsspec's `find` does, in a quarter of the time: a split has hundreds of thousands. A link to
    a folder is one file, one that leads nowhere an empty one; what may not be looked into is left.
    """
    found, folders = {}, [top]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    found[entry.path] = _size(entry)
    return dict(sorted(found.items()))


def sizes_of(root: str, keys: Iterable[str]) -> dict[str, int]:
    """Returns the lengths in bytes of those files below a local folder that are there.

    In a third of the time of listing all: each has folders of its own. A folder is not there.
    """
    found = {}
    for key in keys:
        with contextlib.suppress(OSError):
            there = os.stat(f"{root}/{key}")  # noqa: PTH116 -- a path is dear
            if not stat.S_ISDIR(there.st_mode):
                found[key] = there.st_size
    return found


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def remove(path: Path) -> None:
    """Removes a local file; one that is not there is no error."""
    if os.path.lexists(path):
        tell("delete", path)
        path.unlink(missing_ok=True)


def remove_tree(top: Path) -> None:
    """Removes a local folder, what lies deepest first; one that is not there is no error."""
    for folder, _, names in os.walk(top, topdown=False):
        for name in sorted(names):
            remove(Path(folder, name))
    shutil.rmtree(top, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Removes what killed processes had left of their writing of a local file when this one first
    wrote in its folder: looking again at each writing would take as long as the folder is.

    Whoever writes it at the same moment, as two jobs may that make the same group, begins anew.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        pattern = re.compile(rf"\.{re.escape(target.name)}{LEFTOVER}")
        for name in _left_in(target.parent.absolute()):
            if pattern.fullmatch(name):
                remove(target.with_name(name))


def remove_all_leftovers(top: Path) -> None:
    """Removes what killed processes left anywhere in a local folder that one job alone writes."""
    for folder, _, names in os.walk(top):
        for name in names:
            if _ANY_LEFTOVER.fullmatch(name):
                remove(Path(folder, name))


@lru_cache(maxsize=4096)
def _left_in(folder: Path) -> tuple[str, ...]:
    """Returns the names in a folder that writers give to what they have not finished."""
    return tuple(entry.name for entry in os.scandir(folder) if _ANY_LEFTOVER.fullmatch(entry.name))
