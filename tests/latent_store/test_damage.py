"""No damage goes unnoticed: random trials, what `verify` finds, what `--repair` brings back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

import latent_store
from latent_store.components import finalize
from latent_store.errors import IntegrityError, LatentStoreError
from latent_store.shards import receipts
from latent_store.storage.location import Location
from latent_store.tools import verify as integrity
from latent_store.tools.verify_streams import check_streams
from pipelines import encode
from tests.benchmarks.damage import run_trials
from tests.conftest import TRAIN, TinyStore, encode_args
from tests.latent_store.damage import ALLOWED, DAMAGES, HARMLESS, KINDS, Ground
from tests.latent_store.mutations import unnumbered

TRIALS = 100
VERIFIED = 36


def test_no_damage_is_silent_and_none_crashes(made_root: Path) -> None:
    outcomes = list(run_trials(made_root, range(TRIALS)))
    assert [outcome for outcome in outcomes if outcome.result not in ALLOWED] == []
    assert [outcome.seed for outcome in outcomes] == list(range(TRIALS))
    assert {outcome.kind for outcome in outcomes} == set(KINDS)
    assert {outcome.damage for outcome in outcomes} == set(DAMAGES)
    assert len({outcome.result for outcome in outcomes}) == len(ALLOWED)


def test_a_process_that_dies_is_a_crash(tmp_path: Path) -> None:
    """A worker without its store dies at once, as one would in which the interpreter crashed."""
    (outcome,) = run_trials(tmp_path / "nowhere", range(1))
    assert (outcome.seed, outcome.result) == (0, "crash")
    assert "ended with 1" in outcome.what


def test_verify_finds_every_damage_that_is_not_harmless(ground: Ground) -> None:
    assert list(integrity.verify(Location(ground.root / "made.zarr"), deep=check_streams)) == []
    missed, seen = [], 0
    for seed in range(1000, 1000 + VERIFIED):
        trial = ground.trial(seed)
        if trial.kind == "stream file" or ground.run(seed).result == HARMLESS:
            continue
        seen += 1
        with ground.damaged(trial) as url:
            try:
                found = list(integrity.verify(Location(url)))
                # The command opens the store first.
                latent_store.open(url)
            except LatentStoreError:
                continue
            if not found:
                missed.append((trial.seed, trial.damage, trial.key))
    assert missed == []
    assert seen > VERIFIED // 2


def test_a_crc32c_tells_nothing_of_bytes_that_end_in_theirs() -> None:
    """Why receipts list the trailing checksums: these three objects have one crc32c."""
    rng = np.random.default_rng(0)
    whole = []
    for _ in range(3):
        payload = rng.bytes(40)
        whole.append(payload + google_crc32c.value(payload).to_bytes(4, "little"))
    assert len({google_crc32c.value(data) for data in whole}) == 1
    first = receipts.StoredObject.of(whole[0], 0)
    assert first.defect(whole[0]) is None
    assert first.defect(whole[1]) == "is whole, but another object than its receipt lists"


def test_a_swapped_shard_is_seen_when_it_is_read(ground: Ground) -> None:
    """Chunks of a column are all as long and have, whole, all the same crc32c."""
    (key,) = (key for key in ground.wanted["made/val"] if key.startswith("latents/"))
    base = ground.copy / "made.zarr/made/val" / key
    one, other = (base / column / "c/0" for column in ("hyper_bits", "overhead_bits"))
    data = other.read_bytes()
    assert len(data) == one.stat().st_size
    one.unlink()
    one.write_bytes(data)
    foreign = zarr.open_group(base, mode="r")
    np.testing.assert_array_equal(foreign["hyper_bits"][:], foreign["overhead_bits"][:])
    latents = latent_store.open(ground.copy / "made.zarr")["made/val"].latents(
        key.partition("/")[2]
    )
    latents.column("overhead_bits", latents.rows)
    with pytest.raises(IntegrityError, match=r"hyper_bits/c/0 is another object than its receipt"):
        latents.column("hyper_bits", latents.rows)
    defects = list(map(str, integrity.verify(Location(ground.copy / "made.zarr"))))
    assert len(defects) == 1
    assert "hyper_bits/c/0 is whole, but another object" in defects[0]


def test_finalize_seals_nothing_that_was_altered(ground: Ground) -> None:
    url = ground.copy / "made.zarr"
    path = url / "made/val/labels/segmentation/zarr.json"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data.replace(b'"fill_value": 0', b'"fill_value": 7'))
    with pytest.raises(LatentStoreError, match="metadata of made/val/labels/segmentation was alt"):
        finalize.finalize(Location(url), "made/val", "labels")
    with pytest.raises(LatentStoreError, match=r"labels in .* is incomplete"):
        latent_store.open(url)["made/val"].labels()


def test_what_repair_dropped_is_written_again_exactly(copied_store: TinyStore) -> None:
    location = Location(copied_store.url)
    split = copied_store.url / "cityscapes/train"
    codec_id = latent_store.open(copied_store.url).codec().codec_id
    before = contents(copied_store.url)
    latents = split / "latents" / codec_id
    (split / "labels/segmentation/c/0/0/0").unlink()
    flip(latents / "y_hat/c/1/0/0/0", 500)
    flip(latents / "channel_rms/zarr.json", 40)
    flip(copied_store.url / f".latent_store/cityscapes/train/latents-{codec_id}.parquet", 300)
    flip(copied_store.url / f".latent_store/codecs/{codec_id}.pth.tar", 1000)
    flip(copied_store.url / f"codecs/{codec_id}/y_cdf/c/0/0", 100)
    teacher = next((split / "teacher").glob("*/zarr.json"))
    flip(teacher, teacher.read_bytes().index(b"encoding-version") + 3)
    stamps = {p: p.stat().st_mtime_ns for p in split.rglob("c/**/*") if p.is_file()}
    defects = list(integrity.verify(location))
    assert integrity.repair(location, defects) == 2
    assert encode.main(encode_args(copied_store, "train")) == 0
    assert list(integrity.verify(location, deep=check_streams)) == []
    after = contents(copied_store.url)
    assert {key for key in before if before[key] != after.get(key)} == set()
    # Of what still lay there, one shard of the latents alone was encoded again.
    written = {p for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp}
    receipt = receipts.read_receipt(location, "cityscapes/train", f"latents/{codec_id}", 1)
    assert receipt is not None
    assert {str(p.relative_to(copied_store.url)) for p in written} == set(receipt.objects)
    assert len(latent_store.open(copied_store.url)["cityscapes/train"].latents().rows) == TRAIN


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def contents(url: Path) -> dict[str, str]:
    """Returns a digest of every object of a store but locks."""
    files = (path for path in url.rglob("*") if path.is_file() and "leases" not in path.parts)
    digests = {path: hashlib.sha256(unnumbered(path)).hexdigest() for path in files}
    return {str(path.relative_to(url)): digest for path, digest in digests.items()}
