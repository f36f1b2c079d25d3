"""Local files are listed as fsspec lists them, whatever lies there."""

from __future__ import annotations

from pathlib import Path

import fsspec

from latent_store.storage.location import Location


def test_what_the_system_gives_a_page_at_a_time_is_read_until_it_is_whole() -> None:
    process = Path("/proc/self").resolve()
    with (process / "maps").open("rb", buffering=0) as file:
        at_once = len(file.read(2**20))
    (found,) = Location(process).read_ranges([("maps", 0, 2**20)])
    assert found is not None
    assert len(found) > at_once
    assert found.endswith(b"\n")


def test_local_listings_are_those_of_fsspec(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a/b/c", "a/.hidden", "a-b", "a/é", "z/0", "z/00"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "empty").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"12345")
    (root / "z/link").symlink_to(tmp_path / "outside/file")
    (root / "z/nowhere").symlink_to(tmp_path / "nothing")
    (root / "z/folder").symlink_to(tmp_path / "outside")
    for prefix in ("", "a", "z", "empty", "none"):
        listed = fsspec.filesystem("file").find(f"{root}/{prefix}", detail=True)
        expected = {name[len(str(root)) + 1 :]: info["size"] for name, info in listed.items()}
        found = Location(root).sizes(prefix)
        assert found == expected
        assert list(found) == list(expected)
    assert Location(root).sizes("z")["z/link"] == 5
    assert Location(root).sizes("z")["z/nowhere"] == 0
