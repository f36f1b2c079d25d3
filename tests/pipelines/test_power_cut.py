"""A power cut: what vouches for objects reaches the disk after them and their folders."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from latent_store.storage import location as locations
from latent_store.storage.changes import flush, told
from latent_store.storage.location import CONTROL, Location
from tests.pipelines.kills import Job
from tests.pipelines.tiny_jobs import encoding, ranking, reordering

pytestmark = pytest.mark.usefixtures("serial")
ELSEWHERE = Path("/dev/shm")
_RECEIPT = re.compile(rf"(.*)/{re.escape(CONTROL)}/(.*)/receipts/(.*)/\d+\.json")
_SEALED = re.compile(r"(.*/codecs/.*)/zarr\.json")


def vouched_for(path: str) -> str | None:
    """Returns the folder of what a file vouches for; None for files that vouch for nothing."""
    found = _RECEIPT.fullmatch(path) or _SEALED.fullmatch(path)
    return None if found is None else "/".join([*found.groups(), ""])


class Disk:
    """What was written, and what of it a disk has: told of each change before it happens.

    Attributes:
        vouched: Files that vouched for objects, as they were put in their places.
        early: Pairs of such a file and an object that the disk did not have then.
    """

    def __init__(self) -> None:
        self.vouched: list[str] = []
        self.early: list[tuple[str, str]] = []
        self._waiting: dict[str, int] = {}

    def changed(self, what: str, path: str) -> None:
        """Notes a file that takes its place; one that vouches for others is held to them."""
        if what not in ("replace", "link"):
            return
        folder = vouched_for(path)
        if folder is not None:
            self.vouched.append(path)
            waiting = (name for name in self._waiting if name.startswith(folder) and name != path)
            self.early += [(path, name) for name in waiting]
        self._waiting[path] = Path(path).parent.stat().st_dev

    def flushed(self, path: Path) -> None:
        """Brings what waits for the file system of a path to it."""
        flush(path)
        device = path.stat().st_dev
        self._waiting = {name: dev for name, dev in self._waiting.items() if dev != device}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder of another file system."""
    if not ELSEWHERE.is_dir() or ELSEWHERE.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(f"{ELSEWHERE} is no other file system here")
    folder = Path(tempfile.mkdtemp(dir=ELSEWHERE))
    yield folder
    shutil.rmtree(folder)


def _watched(job: Job, url: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    with monkeypatch.context() as patch, told(disk.changed):
        patch.setattr(locations, "flush", disk.flushed)
        job(url)
    return disk


def test_objects_reach_the_disk_before_what_vouches_for_them(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / "s.zarr"
    found = [_watched(job, url, monkeypatch) for job in (encoding(inputs), ranking(), reordering())]
    assert [disk.early for disk in found] == [[], [], []]
    receipts = [sum("/receipts/" in path for path in disk.vouched) for disk in found]
    assert receipts == [6, 0, 3]


def test_objects_of_another_file_system_are_brought_to_its_disk(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "linked").symlink_to(elsewhere)
    location = Location(tmp_path)
    flushed: list[int] = []

    def note(path: Path) -> None:
        flush(path)
        flushed.append(path.stat().st_dev)

    monkeypatch.setattr(locations, "flush", note)
    keys = ["here/c/0", "linked/c/0", "linked/c/1"]
    for key in keys:
        location.write(key, b"1", durable=False)
    location.sync([*keys, "linked/none/of/them/was/written"])
    assert sorted(flushed) == sorted([tmp_path.stat().st_dev, elsewhere.stat().st_dev])
