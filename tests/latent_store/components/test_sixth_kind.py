"""A sixth kind of component, in this file alone: written, closed, listed, read, verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import latent_store
from latent_store import cli
from latent_store.components import creation
from latent_store.components.reader import ComponentReader, Rows
from latent_store.components.registry import KINDS
from latent_store.components.writer import ShardWriter
from latent_store.errors import IncompleteComponentError, IntegrityError, MissingComponentError
from latent_store.format.schema import ArraySpec, ComponentSpec
from latent_store.shards.receipts import RowRecord
from latent_store.storage.location import Location
from latent_store.tools.verify import repair, verify
from tests.latent_store.made_latents import SPLIT, write_latents

KEY = "depth/lidar"
ROWS = 5


class DepthReader(ComponentReader):
    """Distances in metres, one a position of ŷ, as one sensor saw them."""

    kind = "depth"
    parts = ("sensor",)
    remedy = "measure it with {sensor} on {split}"

    def read(self, rows: Rows) -> np.ndarray:
        """Reads distances, float32 `[n, h, w]`."""
        return self._read("depth", rows)


def depth_spec(sensor: str) -> ComponentSpec:
    array = ArraySpec(
        name="depth", dtype="float32", shape=(4, 8), dims=("latent_y", "latent_x"), inner=(4, 8)
    )
    return ComponentSpec(key=DepthReader.key_of(sensor), arrays=(array,))


def depth(row: int) -> np.ndarray:
    return np.full((4, 8), row + 1, dtype=np.float32)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with latents, in which the depth is half written."""
    monkeypatch.setitem(KINDS, DepthReader.kind, DepthReader)
    url = tmp_path / "made.zarr"
    write_latents(
        url,
        lambda row: np.full((16, 4, 8), row, dtype=np.int8),
        channels=16,
        counts=(ROWS,),
        samples_per_shard=2,
        size=(60, 100),
        dtype="int8",
    )
    plan = latent_store.open(url)[SPLIT].plan
    creation.create_component(Location(url), plan, depth_spec("lidar"))
    write(url, 0)
    return url


def write(url: Path, *shards: int) -> None:
    """Writes shards of the depth."""
    plan = latent_store.open(url)[SPLIT].plan
    writer = ShardWriter(Location(url), plan, depth_spec("lidar"))
    for shard in shards:
        planned = plan.in_shard(shard)
        records = [RowRecord(row=row, sample_id=sample.sample_id) for row, sample in planned]
        writer.write(shard, {"depth": {row: depth(row) for row, _ in planned}}, {}, records)


def test_it_is_listed_before_it_is_whole_and_closed_by_the_command(
    url: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert latent_store.open(url)[SPLIT].components() == {"latents/made": True, KEY: False}
    with pytest.raises(IncompleteComponentError, match=f"measure it with lidar on {SPLIT}"):
        latent_store.open(url)[SPLIT].component(KEY)
    assert cli.main(["finalize", str(url)]) == 1
    assert f"{SPLIT}/{KEY} is not whole: 2 of 3 shards do not count" in capsys.readouterr().out
    write(url, 1, 2)
    assert cli.main(["finalize", str(url)]) == 0
    assert f"{SPLIT}/{KEY}: complete, 3 shards" in capsys.readouterr().out
    assert cli.main(["inspect", str(url)]) == 0
    assert f"  {KEY} " in capsys.readouterr().out


def test_it_is_read_by_its_key_with_every_check(url: Path) -> None:
    write(url, 1, 2)
    assert cli.main(["finalize", str(url)]) == 0
    split = latent_store.open(url)[SPLIT]
    reader = split.component(KEY)
    assert isinstance(reader, DepthReader)
    assert reader.ids == {"sensor": "lidar"}
    rows = split.common_rows(reader, split.latents("made"))
    np.testing.assert_array_equal(reader.read(rows[::-1]), [depth(row) for row in rows[::-1]])
    with pytest.raises(MissingComponentError, match=r"row 5 of .* is not usable in depth/lidar"):
        reader.read([5])
    with pytest.raises(MissingComponentError, match=r"they are: .*depth/SENSOR"):
        split.component("depth")


def test_its_damage_is_seen_by_reader_and_verify_and_written_again(url: Path) -> None:
    write(url, 1, 2)
    assert cli.main(["finalize", str(url)]) == 0
    assert list(verify(Location(url))) == []
    one, two = (url / SPLIT / KEY / f"depth/c/{shard}/0/0" for shard in (0, 1))
    assert one.stat().st_size == two.stat().st_size
    one.write_bytes(two.read_bytes())
    reader = latent_store.open(url)[SPLIT].component(KEY)
    assert isinstance(reader, DepthReader)
    with pytest.raises(IntegrityError, match="depth/c/0/0/0 is another object than its receipt"):
        reader.read([0])
    defects = list(verify(Location(url)))
    assert [(defect.component, defect.shard) for defect in defects] == [(KEY, 0)]
    assert repair(Location(url), defects) == 1
    write(url, 0)
    assert cli.main(["finalize", str(url)]) == 0
    assert list(verify(Location(url))) == []
