"""Every benchmark runs, on a few scenes; what it measures on real images is in MEASUREMENTS.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import latent_store
from latent_store.storage.location import Location
from tests import s3
from tests.benchmarks import (
    clients,
    encoding,
    growth,
    ledger,
    object_clients,
    opening,
    planning,
    reading,
    reading_data,
    reading_peers,
    slow_bucket,
    store,
    teacher_features,
)
from tests.conftest import OF_FILE, RANKING, TinyStore


def table_rows(text: str) -> list[list[str]]:
    """Returns the cells of a Markdown table, header and rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_features_of_every_encoding_are_measured(tiny_store: TinyStore, capsys: Any) -> None:
    args = ["--data_root", str(tiny_store.data_root), "--images", "2", "--keepbits", "3", "6"]
    assert teacher_features.main(args) == 0
    rows = table_rows(capsys.readouterr().out)
    names, sizes, errors = zip(*(row[:3] for row in rows), strict=True)
    assert names == (
        *("uint8", "float16", "float16-bitround (3 bits)", "float16-bitround (6 bits)"),
    )
    uint8, float16, three, six = (int(size.replace(",", "")) for size in sizes)
    assert three < six < float16
    assert uint8 < float16
    uint8, float16, three, six = map(float, errors)
    assert float16 < six < three < 2.0**-4
    assert 0 < uint8 < 0.01


def test_encoding_is_measured_beside_the_stock_loop(tiny_store: TinyStore, capsys: Any) -> None:
    picture = min(tiny_store.data_root.glob("leftImg8bit/val/*/*.png"))
    assert encoding.main(["--images", str(picture), "--sizes", "64x128", "--repeats", "1"]) == 0
    pictures, clock, coder = map(table_rows, capsys.readouterr().out.split("\n\n"))
    for rows in (pictures, clock):
        seconds = {what: float(value) for _, what, value, _ in rows}
        assert list(seconds) == [encoding.STOCK, encoding.DEFAULT, encoding.NONE, encoding.ALL]
        least, most = sorted((seconds[encoding.NONE], seconds[encoding.ALL]))
        assert 0 < least <= seconds[encoding.DEFAULT] <= most
        assert rows[0][3] == "1.00 ×"
    assert len(coder) == 7
    assert all(float(value) > 0 for _, _, value in coder)


def test_what_a_sample_costs_is_measured_at_several_sizes(tmp_path: Path, capsys: Any) -> None:
    sizes = ["--shards", "2", "3", "--rows_per_shard", "1", "--repeats", "1"]
    assert growth.main([*sizes, "--reorder_up_to", "2", "--work", str(tmp_path)]) == 0
    rows = table_rows(capsys.readouterr().out)
    assert [row[:2] for row in rows] == [["2", "2"], ["3", "3"]]
    assert math.isfinite(float(rows[0][4]))  # Of such small stores a difference may be below 0.
    assert rows[1][4] == "-"


def test_opening_and_a_first_batch_are_measured(capsys: Any) -> None:
    assert opening.main(["--samples", "32", "--repeats", "1"]) == 0
    ((samples, shards, *measured, _),) = table_rows(capsys.readouterr().out)
    assert (samples, shards) == ("32", "2")
    assert all(float(value) > 0 for value in measured)


@pytest.mark.slow
def test_what_planning_takes_is_measured(capsys: Any) -> None:
    assert planning.main(["--rows", "40000"]) == 0
    rows = table_rows(capsys.readouterr().out)
    sizes = {row[1]: int(row[4].replace(",", "")) for row in rows}
    assert 0 < 5 * sizes["listed, planned, written"] < sizes["one shard of one text (version 1)"]
    assert sizes["the same command again"] == sizes["listed, planned, written"]
    assert all(float(row[2]) >= 0 and int(row[3]) > 0 for row in rows)


@pytest.fixture
def store_args(tiny_store: TinyStore, tmp_path: Path) -> list[str]:
    """The benchmark of the store as it is: 4 + 1 scenes, everything there but the work."""
    checkpoint = tmp_path / "codec.pth.tar"
    kept = latent_store.open(tiny_store.url).codec_checkpoint(codec_id_of(tiny_store))
    checkpoint.write_bytes(kept)
    return [
        *("--data_root", str(tiny_store.data_root), "--codecs", str(checkpoint)),
        *("--store", str(tiny_store.url), "--ranking", RANKING, "--work", str(tmp_path)),
        *("--images", "5", "--trial_images", "2", "--trials", "20"),
    ]


WITHOUT_DISK = "ledger,prefix,stock,indexes,damage,readers,compressors"


@pytest.mark.slow
def test_a_store_keeps_its_promises(store_args: list[str], tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "table.md"
    assert store.main([*store_args, "--rows", WITHOUT_DISK, "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert output.read_text() == text
    promises, tried = text.split("\n\n")
    verdicts = {what: holds for what, _, _, holds in table_rows(promises)}
    measured = {what: found for what, _, found, _ in table_rows(promises)}
    skipped = {what for what, found in measured.items() if found.startswith("skipped: ")}
    assert skipped <= {"TensorStore reads the store", "zarrs reads the store"}
    unpromised = {what for what, verdict in verdicts.items() if verdict == "-"} - skipped
    assert {what for what in unpromised if "float32" not in what} == set()
    assert "NO" not in verdicts.values()
    exact = measured["ŷ from the stored strings by unmodified CompressAI in float64"]
    assert exact == "0 of 5 images lost"
    ratios = [float(cells[4]) for cells in table_rows(tried)]
    assert len(ratios) == 26
    assert all(0.5 < ratio < 10 for ratio in ratios)


def test_a_promise_that_does_not_hold_is_told(store_args: list[str], capsys: Any) -> None:
    """Chunks of scenes this small hold 1.5 KB at most: what surrounds them weighs more than ŷ."""
    status = store.main([*store_args, "--rows", "disk"])
    (row,) = table_rows(capsys.readouterr().out)
    broken = float(row[2].split()[0]) > 1.75
    assert (status, row[3]) == ((1, "NO") if broken else (0, "yes"))
    assert broken == (not OF_FILE)  # streams of fresh weights are longer than anything around them


def test_a_ledger_beyond_the_flush_does_not_hold() -> None:
    line = ledger.judge("streams of ŷ", np.array([31.9, 32.1, 64.0, 64.2]), 64)
    assert line.holds is False
    assert line.measured == "31.90 to 64.20 bits in 4, 2 outside"


def codec_id_of(tiny: TinyStore) -> str:
    return latent_store.open(tiny.url).codec().codec_id


@pytest.mark.slow
def test_a_missing_store_is_made(tiny_store: TinyStore, store_args: list[str], capsys: Any) -> None:
    at = store_args.index("--store")
    args = store_args[:at] + store_args[at + 2 :]
    args[args.index("--images") + 1] = "1"
    assert store.main([*args, "--rows", "prefix"]) == 0
    first = capsys.readouterr().out
    assert "1 samples in 1 shards" in first
    args[args.index("--images") + 1] = "2"
    assert store.main([*args, "--rows", "prefix"]) == 0
    first = capsys.readouterr().out
    assert f"ranked/{codec_id_of(tiny_store)}/{RANKING}: 2 samples" in first
    assert "0 of 2 differ" in first
    assert store.main([*args, "--rows", "prefix"]) == 0
    assert first.endswith(capsys.readouterr().out)


def test_an_unknown_row_is_refused(store_args: list[str], fails: Callable[..., str]) -> None:
    line = fails(store.main, [*store_args, "--rows", "ledger,leger"])
    assert "--rows has leger" in line
    assert "rows are ledger, prefix, stock, indexes, damage, readers, disk, compressors" in line


@pytest.fixture(scope="module")
def read_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures in our store and in every format that is installed."""
    root, pictures = tmp_path_factory.mktemp("reading"), reading_data.Pictures(2)
    reading_data.write_ours(root / "ours.zarr", pictures)
    for peer in reading_peers.PEERS:
        (root / peer.__name__).mkdir()
        peer(root / peer.__name__, 2).write(pictures)
    return root


@pytest.mark.parametrize("what", reading.TASKS, ids=lambda what: what.name)
def test_every_format_is_read_as_it_was_written(read_root: Path, what: reading_peers.What) -> None:
    wholes = list(reading_data.Pictures(2))
    for peer in reading_peers.PEERS:
        reader = peer(read_root / peer.__name__, 2, what)
        if type(reader).__getitem__ is reading_peers.OurStoreByTensorStore.__getitem__:
            continue
        for row, (y_hat, labels) in enumerate(wholes):
            torch.manual_seed(row)
            found = reader[row]
            torch.manual_seed(row)
            for part, expected in zip(found, what.cut(y_hat, labels), strict=True):
                assert np.array_equal(part.numpy(), expected), peer.name


def test_the_slow_bucket_answers_as_s3_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    s3.clean(monkeypatch)
    (tmp_path / "x").mkdir()
    for n in range(1001):
        (tmp_path / "x" / str(n)).write_bytes(b"%d" % n)
    with slow_bucket.serving(tmp_path) as endpoint:
        options = object_clients.options_of(object_clients.OURS, endpoint)
        location = Location(f"s3://{slow_bucket.BUCKET}/x", options)
        assert location.sizes("") == {str(n): len(str(n)) for n in range(1001)}
        assert location.read_ranges([("1000", 1, 3), ("12", 1, 9), ("none", 0, 1)]) == [
            *(b"00", b"2"), None,
        ]  # fmt: skip
        assert location.create("a/b", b"mine")
        assert not location.create("a/b", b"yours")
        location.write_all({"a/c": b"", "a&d/e": b"7"})
        assert location.folders("") == ["a", "a&d"]
        assert location.read_all(["a/b", "a/c"]) == {"a/b": b"mine", "a/c": b""}
        slow_bucket.count_requests(endpoint)
        location.delete_tree("a")
        assert slow_bucket.count_requests(endpoint) == 2
        assert location.sizes("a") == {}
        assert location.sizes("a&d") == {"a&d/e": 1}


@pytest.mark.slow
def test_every_client_is_measured(capsys: Any) -> None:
    pytest.importorskip("obstore")
    assert clients.main(["--samples", "8", "--rounds", "1"]) == 0
    rows = {what: of for what, *of in table_rows(capsys.readouterr().out)}
    held, job = rows[object_clients.TAKEN], rows[object_clients.JOB]
    # Its file system for fsspec lets two hold one lease.
    assert [cell.startswith("fails") for cell in held] == [False, False, False, True]
    assert len({cell.rpartition(",")[2] for cell in job[:3]}) == 1


@pytest.mark.slow
def test_reading_is_measured_near_and_afar(capsys: Any) -> None:
    assert reading.main(["--samples", "8", "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for cells in table_rows(text)}
    assert {reading.OURS, ".npy files", "bytes against raw"} <= set(rows)
    assert float(rows[reading.OURS][0].replace(",", "")) < float(rows[".npz files"][0]) < 200
    assert "nan" not in text
