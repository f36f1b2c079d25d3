"""The shard reader gives what zarr-python gives and refuses what it refuses, also from afar."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

import latent_store
from latent_store.components import creation
from latent_store.components.features import teacher_spec
from latent_store.components.finalize import finalize
from latent_store.components.labels import labels_spec
from latent_store.components.reader import ComponentReader
from latent_store.components.writer import ShardWriter
from latent_store.errors import CapacityError, IntegrityError, MissingComponentError
from latent_store.format.feature_encoding import FeatureEncoding
from latent_store.format.schema import ComponentSpec
from latent_store.shards import fetching, recycled
from latent_store.shards.bounded_cache import BoundedCache
from latent_store.shards.fetching import Fetcher
from latent_store.shards.listed_objects import ListedObjects
from latent_store.shards.receipts import RowRecord
from latent_store.shards.shard_reader import ShardReader
from latent_store.storage.location import Location, Range
from tests.latent_store.made_latents import SPLIT, write_latents

ROWS, PER_SHARD, CHANNELS = 7, 3, 40
SIZE = (300, 580)
"""Coded at 320x640: neither labels nor channels fill their last chunks."""
FAILED_ROW, EMPTY_SHARD = 4, 2
"""Row 4 failed, and every value of the last shard is fill."""
GAPS = (0, 2**9, 2**22)
"""Of bytes that are not wanted: nothing comes whole, some does, everything does."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of labels, features of both encodings and latents; read only."""
    url = tmp_path_factory.mktemp("shards") / "made.zarr"
    make_store(url, "int8")
    return url


def make_store(url: Path, dtype: str) -> None:
    write_latents(
        url,
        lambda row: None if row == FAILED_ROW else made_latents(row).astype(dtype),
        channels=CHANNELS,
        counts=(ROWS,),
        samples_per_shard=PER_SHARD,
        size=SIZE,
        dtype=dtype,
    )
    canvas = latent_store.open(url)[SPLIT].plan.canvas
    rng = np.random.default_rng(1)

    def classes() -> np.ndarray:
        return np.kron(rng.integers(0, 19, (20, 40)), np.ones((16, 16))).astype(np.uint8)

    write(url, labels_spec(*canvas), lambda: {"segmentation": classes()})
    for encoding in (FeatureEncoding(), FeatureEncoding(name="float16")):
        values = rng.integers(0, 255, (4, 80, 160)).astype(encoding.dtype)
        columns = {"features": values, "feature_scale": np.arange(4, dtype=np.float32)}
        spec = teacher_spec(f"t-{encoding.dtype}", *canvas, 4, encoding)
        write(url, spec, lambda columns=columns: columns)


def made_latents(row: int) -> np.ndarray:
    """ŷ whose second group of channels is zero in every other row."""
    rng = np.random.default_rng(row)
    y_hat_CHW = np.round(rng.laplace(size=(CHANNELS, 20, 40)) * 2)
    y_hat_CHW[16 : 16 + 16 * (row % 2)] = 0
    return y_hat_CHW * (row // PER_SHARD != EMPTY_SHARD)


def write(url: Path, spec: ComponentSpec, make: Callable[[], dict[str, np.ndarray]]) -> None:
    location, plan = Location(url), latent_store.open(url)[SPLIT].plan
    creation.create_component(location, plan, spec)
    writer = ShardWriter(location, plan, spec)
    for shard in range(plan.num_shards):
        made = {row: make() for row, _ in plan.in_shard(shard)}
        columns = {a.name: {row: m[a.name] for row, m in made.items()} for a in spec.arrays}
        samples = plan.in_shard(shard)
        records = [
            RowRecord(row=row, sample_id=sample.sample_id, stats={"image_sha256": "0" * 64})
            for row, sample in samples
        ]
        writer.write(shard, columns, {}, records)
    finalize(location, plan.name, spec.key)


def arrays(url: str | Path) -> Iterator[tuple[ComponentReader, str]]:
    split = latent_store.open(url)[SPLIT]
    for key in split.components():
        reader = split.component(key)
        yield from ((reader, name) for name in sorted(reader.record.arrays))


def shard_reader(reader: ComponentReader, name: str) -> ShardReader:
    listed = ListedObjects(reader.objects, "mend it", reader.left_out)
    return ShardReader(reader.array(name), Fetcher(reader.location, listed))


def draw_cut(data: st.DataObject, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Draws windows of a few axes, or channels of the first and windows of others."""
    cut: list[Any] = []
    for axis, side in enumerate(shape[: data.draw(st.integers(0, len(shape)))]):
        if axis == 0 and data.draw(st.booleans()):
            numbers = st.integers(0, side - 1)
            cut.append(tuple(data.draw(st.lists(numbers, min_size=1, max_size=5))))
        else:
            start = data.draw(st.integers(0, side - 1))
            cut.append(range(start, data.draw(st.integers(start + 1, side))))
    return tuple(cut)


@given(data=st.data())
def test_it_reads_what_zarr_reads(url: Path, data: st.DataObject) -> None:
    reader, name = data.draw(st.sampled_from(list(arrays(url))))
    array = reader.array(name)
    rows = data.draw(st.lists(st.integers(0, array.shape[0] - 1), max_size=6))
    cut = draw_cut(data, array.shape[1:])
    gap = data.draw(st.sampled_from(GAPS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "LOCAL_GAP", gap)
        found = shard_reader(reader, name).read(rows, cut)
    whole = array[...][rows]
    expected = whole[np.ix_(range(len(rows)), *cut)] if cut else whole
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, expected)


def test_bit_shuffled_latents_are_read_too(tmp_path: Path) -> None:
    make_store(tmp_path / "made.zarr", "int16")
    latents = latent_store.open(tmp_path / "made.zarr")[SPLIT].latents()
    assert "blosc" in str(latents.array("y_hat").compressors).lower()
    expected = [made_latents(row) for row in latents.rows]
    np.testing.assert_array_equal(latents.read(latents.rows), expected)


def test_each_row_may_have_a_window_of_its_own(url: Path) -> None:
    split = latent_store.open(url)[SPLIT]
    labels, latents = split.labels(), split.latents()
    rows, places = [5, 0, 2], [(200, 300), (0, 0), (64, 384)]
    windows = [(top, left, 96, 240) for top, left in places]
    whole = labels.read(rows)
    for i, (top, left) in enumerate(places):
        cut = whole[i, top : top + 96, left : left + 240]
        np.testing.assert_array_equal(labels.read(rows, windows)[i], cut)
    cells = [(top // 16, left // 16, 6, 15) for top, left in places]
    whole = latents.read(rows, [39, 0])
    for i, (top, left, height, width) in enumerate(cells):
        cut = whole[i, :, top : top + height, left : left + width]
        np.testing.assert_array_equal(latents.read(rows, [39, 0], cells)[i], cut)


def test_windows_that_are_not_one_a_row_and_of_one_size_are_refused(url: Path) -> None:
    split = latent_store.open(url)[SPLIT]
    one: Any = (0, 0, 4, 4)
    wrong: list[Any] = [[one, (2, 2, 1, 1)], [one], [one] * 3, (one, one), [], [one, (0, 0, 4)]]
    for reader, windows in itertools.product((split.latents(), split.labels()), wrong):
        with pytest.raises(CapacityError, match=r"a list of 2 of one height and width"):
            reader.read([0, 1], window=windows)
        assert reader.read([], window=windows).shape[0] == 0


def test_a_channel_that_there_is_not_is_refused(url: Path) -> None:
    latents = latent_store.open(url)[SPLIT].latents()
    with pytest.raises(MissingComponentError, match=r"has channels 0 to 39, not 40$"):
        latents.read([0], [3, 40])


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "a byte of a chunk": lambda data, _: flipped(data, 20),
    "the crc32c of the last chunk": lambda data, _: flipped(data, INDEX_START - 2),
    "a byte of the index": lambda data, _: flipped(data, -30),
    "the crc32c of the index": lambda data, _: flipped(data, -1),
    "truncated": lambda data, _: data[:-1],
    "half": lambda data, _: data[: len(data) // 2],
    "empty": lambda data, _: b"",
    "another shard": lambda _, other: other,
    "gone": lambda *_: None,
}
INDEX_START = -(16 * 3 * PER_SHARD + 4)
"""Of the index of a shard of ŷ with three groups of channels."""


@pytest.mark.parametrize(
    ("damage", "gap"), list(itertools.product(DAMAGES, (0, 2**22))), ids=lambda v: str(v)
)
def test_damage_is_refused_as_it_is_by_the_slow_path(tmp_path: Path, damage: str, gap: int) -> None:
    url = tmp_path / "made.zarr"
    write_latents(
        url,
        made_latents_int8,
        channels=CHANNELS,
        counts=(6,),
        samples_per_shard=PER_SHARD,
        size=SIZE,
        dtype="int8",
    )
    latents = latent_store.open(url)[SPLIT].latents()
    one, other = (url / f"{latents.group.path}/y_hat/c/{n}/0/0/0" for n in (0, 1))
    data = DAMAGES[damage](one.read_bytes(), other.read_bytes())
    one.unlink()
    if data is not None:
        one.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "LOCAL_GAP", gap)
        with pytest.raises(IntegrityError, match=r"y_hat/c/0/0/0/0|y_hat cannot be read") as fast:
            latents.read([0, 1, 2])
    assert "\n" not in str(fast.value)
    np.testing.assert_array_equal(latents.read([4]), made_latents_int8(4)[None])
    with pytest.raises((IntegrityError, ValueError)):
        latents.array("y_hat")[:3]


def made_latents_int8(row: int) -> np.ndarray:
    return made_latents(row).astype(np.int8)


def test_what_no_receipt_lists_is_refused(tmp_path: Path) -> None:
    url = tmp_path / "made.zarr"
    make_store(url, "int8")
    latents = latent_store.open(url)[SPLIT].latents()
    there, absent = (url / f"{latents.group.path}/y_hat/c/{n}/0/0/0" for n in (0, EMPTY_SHARD))
    assert (latents.read([6]) == 0).all()
    absent.parent.mkdir(parents=True)
    absent.write_bytes(there.read_bytes())
    again = shard_reader(latents, "y_hat")
    with pytest.raises(IntegrityError, match="is there, but in no receipt"):
        again.read([6])


@pytest.fixture
def remote(url: Path) -> Iterator[str]:
    """The address of a copy of the store in an object store."""
    there = Location("memory://shards/made.zarr")
    for path in url.rglob("*"):
        if path.is_file():
            there.write(str(path.relative_to(url)), path.read_bytes())
    yield there.address
    there.delete_tree("")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Range]:
    """The ranges of chunks that are asked for."""
    found: list[Range] = []
    read_ranges = Location.read_ranges

    def noted(self: Location, ranges: list[Range]) -> list[bytes | None]:
        found.extend(part for part in ranges if "/c/" in part[0])
        return read_ranges(self, ranges)

    monkeypatch.setattr(Location, "read_ranges", noted)
    return found


def test_from_a_distance_every_object_comes_once(
    url: Path, remote: str, asked: list[Range]
) -> None:
    here, there = (latent_store.open(place)[SPLIT] for place in (url, remote))
    expected = here.labels().read(range(ROWS)), here.latents().read([5, 0, 6], [1, 30])
    asked.clear()
    labels, latents = there.labels(), there.latents()
    for _ in range(2):
        for row in range(ROWS):
            np.testing.assert_array_equal(labels.read([row])[0], expected[0][row])
        np.testing.assert_array_equal(latents.read([5, 0, 6], [1, 30]), expected[1])
    shards = -(-ROWS // PER_SHARD)
    assert len(asked) == len({key for key, _, _ in asked}) == 2 * shards


def test_threads_do_not_fetch_the_same_twice(remote: str, asked: list[Range]) -> None:
    labels = latent_store.open(remote)[SPLIT].labels()
    labels.array("segmentation")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: labels.read(range(ROWS)), range(8)))
    assert all(np.array_equal(one, found[0]) for one in found)
    assert len(asked) == len({key for key, _, _ in asked})


def test_from_a_distance_a_part_of_a_large_object_comes_alone(
    remote: str, asked: list[Range], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "REMOTE_GAP", 0)
    labels = latent_store.open(remote)[SPLIT].labels()
    labels.read([0, 1], (0, 0, 64, 64))
    lengths = {row["key"]: row["length"] for row in labels.objects.to_pylist()}
    assert len(asked) <= 3
    assert sum(stop - start for _, start, stop in asked) < lengths[asked[0][0]] / 2
    asked.clear()
    labels.read([0, 1], (0, 0, 64, 64))
    assert all(start < stop <= lengths[key] - 100 for key, start, stop in asked), "the index again"


def test_an_error_from_a_distance_is_every_waiting_threads(remote: str) -> None:
    labels = latent_store.open(remote)[SPLIT].labels()
    location = Location(remote)
    key = f"{labels.group.path}/segmentation/c/0/0/0"
    data = location.read(key)
    location.write(key, flipped(data, -1))

    def read(_: int) -> str:
        with pytest.raises(IntegrityError, match=r"segmentation/c/0/0/0 is another object") as got:
            labels.read([0])
        return str(got.value)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(read, range(8)))) == 1
    location.write(key, data)
    assert labels.read([0]).shape == (1, 320, 640)


def test_what_arrives_cut_short_is_not_kept(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = latent_store.open(remote)[SPLIT].latents()
    latents.array("y_hat")
    expected = latents.read([0])
    monkeypatch.setattr(latents._fetcher, "_objects", BoundedCache(fetching.OBJECT_BYTES))
    location, key = Location(remote), f"{latents.group.path}/y_hat/c/0/0/0/0"
    data = location.read(key)
    location.write(key, data[:-1])
    with pytest.raises(IntegrityError, match=rf"has {len(data) - 1} bytes, its receipt says"):
        latents.read([0])
    location.write(key, data)
    np.testing.assert_array_equal(latents.read([0]), expected)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_another_threads_error_stays_its_own(
    remote: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    labels = latent_store.open(remote)[SPLIT].labels()
    labels.array("segmentation")
    read_ranges, both = Location.read_ranges, Barrier(2)

    def failing_once(self: Location, ranges: list[Range]) -> list[bytes | None]:
        if len(ranges) > 1:
            both.wait(60)
            time.sleep(0.2)  # Until the other waits.
            raise error("of the first thread")
        return read_ranges(self, ranges)

    monkeypatch.setattr(Location, "read_ranges", failing_once)
    with ThreadPoolExecutor(1) as pool:
        failed = pool.submit(labels.read, [0, PER_SHARD])
        both.wait(60)
        assert labels.read([0]).any(), "a healthy object"
        assert isinstance(failed.exception(60), error)
    assert not labels._fetcher._under_way


def test_little_memory_lies_idle() -> None:
    lent = [recycled.empty((2**23,), np.dtype(np.uint8)) for _ in range(40)]
    lent.append(recycled.empty((recycled.KEPT + 1,), np.dtype(np.uint8)))
    del lent
    assert 0 < sum(memory.nbytes for memory in recycled._idle) <= recycled.KEPT
    larger = recycled.empty((2**25,), np.dtype(np.uint8))
    place = larger.ctypes.data
    del larger
    assert recycled.empty((2**25,), np.dtype(np.uint8)).ctypes.data == place


def test_memory_is_used_again_but_never_while_it_is_seen() -> None:
    shape, dtype = (recycled.LEAST,), np.dtype(np.uint8)
    first = recycled.empty(shape, dtype)
    first[...] = 1
    seen = first[5:10].reshape(1, 5)
    place = first.ctypes.data
    del first
    second = recycled.empty(shape, dtype)
    second[...] = 2
    assert (seen == 1).all()
    assert second.ctypes.data != place
    del seen
    third = recycled.empty(shape, dtype)
    assert third.ctypes.data == place


def test_bytes_are_little_endian_on_every_machine(url: Path) -> None:
    reader = shard_reader(latent_store.open(url)[SPLIT].teacher("t-float16"), "features")
    expected = reader.read([0])
    reader._codec.dtype = reader._codec.dtype.newbyteorder(">")
    np.testing.assert_array_equal(reader.read([0]), expected)


def test_arrays_of_other_layouts_are_refused(url: Path, tmp_path: Path) -> None:
    latents = latent_store.open(url)[SPLIT].latents()
    fetcher = Fetcher(latents.location, ListedObjects(latents.objects, "mend it"))
    whole = zarr.create_array(tmp_path / "a", shape=(4, 8), chunks=(2, 8), dtype="int8")
    big = zarr.create_array(
        tmp_path / "b",
        shape=(4, 8),
        chunks=(2, 8),
        dtype="int16",
        serializer=BytesCodec(endian="big"),
        compressors=[ZstdCodec(), Crc32cCodec()],
    )
    for array in (whole, big):
        with pytest.raises(IntegrityError, match="chunks that no version of the format writes"):
            ShardReader(array, fetcher)
