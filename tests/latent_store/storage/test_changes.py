"""Changes of a tree: every one is told, none is seen half, and what a killed writer left goes."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_store.storage import groups, small_groups
from latent_store.storage.changes import told
from latent_store.storage.local_files import atomic_path, write_atomically
from latent_store.storage.location import Location


class Stopped(Exception):
    """Ends a writer."""


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_whatever_is_written_or_removed_is_told(kind: str, tmp_path: Path) -> None:
    location = Location(tmp_path if kind == "local" else "memory://told.zarr")
    seen: list[str] = []

    def listen(what: str, path: str) -> None:
        if what != "write" or kind == "memory":
            seen.append(path.rsplit("/", 1)[-1] if what == "delete" else path)

    with told(listen):
        location.write("a", b"1")
        assert location.create("b", b"2")
        assert not location.create("a", b"3")
        groups.make_groups(location, "g")
        small_groups.write(location, "g/h", {}, {"x": np.array([1, 2])}, {"x": ("n",)})
        location.write_all({"g/y": b"1", "g/z": b"2"})
        location.delete_all(["g/y", "g/none"])
        groups.update_attrs(location, "g", {"n": 1})
        groups.update_attrs(location, "g", {"n": 1})
        location.delete("b")
        location.delete_tree("g")
    told_of = " ".join(seen)
    for name in ("a", "b", "g/zarr.json", "g/h/x/zarr.json", "g/h/x/c/0", "g/y", "g/z"):
        assert name in told_of
    kept = location.sizes("")
    assert set(kept) == {"a", "zarr.json"}
    location.delete_tree("")


def test_a_writer_that_is_stopped_leaves_the_old_file_and_the_next_one_no_trace(
    tmp_path: Path,
) -> None:
    target = tmp_path / "plan.json"
    write_atomically(target, b"old")

    def stop(what: str, _: str) -> None:
        if what in ("replace", "delete"):
            raise Stopped

    with told(stop), pytest.raises(Stopped):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert len(files(tmp_path)) == 2
    write_atomically(target, b"newer")
    assert files(tmp_path) == ["plan.json"]
    assert target.read_bytes() == b"newer"


def test_only_what_was_left_of_the_same_file_is_removed(tmp_path: Path) -> None:
    names = [".a.png.0123abcd", ".a.png.0123abcd.png", ".a.0123abcd", ".a.png.backup", "a.0123abcd"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with atomic_path(tmp_path / "a.png") as path:
        path.write_bytes(b"picture")
    assert files(tmp_path) == sorted(["a.png", *names[2:]])
    Location(tmp_path).delete("a")
    assert ".a.0123abcd" not in files(tmp_path)


def test_a_folder_is_looked_through_once_however_much_is_written_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".7.0123abcd").write_bytes(b"left")
    looks: list[str] = []
    scan = os.scandir

    def count(path: Path) -> Any:
        looks.append(str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", count)
    location = Location(tmp_path)
    for number in range(50):
        location.write(str(number), b"1")
        assert not location.create(str(number), b"2")
    for number in range(0, 50, 2):
        location.delete(str(number))
    assert looks == [str(tmp_path)]
    assert files(tmp_path) == sorted(str(number) for number in range(1, 50, 2))


def test_of_several_who_make_an_object_one_does_and_all_see_it_whole(tmp_path: Path) -> None:
    location = Location(tmp_path)
    made: list[int] = []
    start = threading.Barrier(8)

    def make(number: int) -> None:
        start.wait()
        if location.create("folder/one", bytes([number]) * 10_000):
            made.append(number)
        assert len(location.read("folder/one")) == 10_000

    threads = [threading.Thread(target=make, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert location.read("folder/one") == bytes(made) * 10_000
    assert files(tmp_path) == ["folder/one"]


@pytest.mark.parametrize("reason", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_what_is_there_stays_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", refuse)
    location = Location(tmp_path)
    assert location.create("a/b", b"1")
    assert not location.create("a/b", b"2")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a/b", b"3", replace=False)
    assert (files(tmp_path), location.read("a/b")) == (["a/b"], b"1")
    reason = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        location.create("c", b"4")
    assert files(tmp_path) == ["a/b"]


def test_a_tree_is_removed_from_its_leaves_on(tmp_path: Path) -> None:
    location = Location(tmp_path)
    for key in ("g/zarr.json", "g/x/zarr.json", "g/x/c/0"):
        location.write(key, b"{}")
    order: list[str] = []
    with told(lambda _, path: order.append(os.path.relpath(path, tmp_path))):
        location.delete_tree("g")
    assert order == ["g/x/c/0", "g/x/zarr.json", "g/zarr.json"]
    assert not (tmp_path / "g").exists()
