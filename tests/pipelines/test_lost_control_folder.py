"""A copy without names that begin with a dot: every command says that the control folder went."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import latent_store
from latent_store import cli
from latent_store.errors import IntegrityError
from latent_store.format.plan_files import plan_key
from pipelines import encode, frequency, reorder
from tests.conftest import RANKING, TinyStore, encode_args
from training import evaluate, train

Main = Callable[[list[str]], int]
Fails = Callable[..., str]
SPLIT = "cityscapes/train"
LOST = (
    f"the control folder of {SPLIT}, .latent_store/{SPLIT}, is missing though its groups are there"
)
REMEDY = "copy .latent_store from the store that this is a copy of, or delete cityscapes/train"


@pytest.fixture
def lost(tiny_store: TinyStore, tmp_path: Path) -> TinyStore:
    """What `cp -r STORE/* COPY/` makes."""
    url = tmp_path / "copy.zarr"
    shutil.copytree(tiny_store.url, url, ignore=shutil.ignore_patterns(".latent_store"))
    return TinyStore(url=url, data_root=tiny_store.data_root, teacher=tiny_store.teacher)


@pytest.mark.parametrize(
    ("main", "args"),
    [
        (cli.main, "inspect STORE"),
        (cli.main, "decode STORE --sample x --output OUT"),
        (cli.main, f"export STORE --sample x --split {SPLIT} --output OUT"),
        (cli.main, "selfcheck STORE"),
        (encode.main, "ENCODE"),
        (encode.main, "ENCODE --dry_run"),
        (frequency.main, "--store STORE --dataset cityscapes --method entropy --ranking new"),
        (reorder.main, f"--store STORE --dataset cityscapes --split train --ranking {RANKING}"),
        (train.main, "--store STORE --dataset cityscapes --output OUT --device cpu"),
        (train.main, "--store STORE --dataset cityscapes --output OUT --teacher none"),
        (
            evaluate.main,
            "--store STORE --dataset cityscapes --split train --checkpoint TEACHER --output OUT",
        ),
    ],
)
def test_every_command_says_it(
    lost: TinyStore, tmp_path: Path, fails: Fails, main: Main, args: str
) -> None:
    before = sorted(lost.url.rglob("*"))
    words = {"STORE": lost.url, "OUT": tmp_path / "out", "TEACHER": lost.teacher}
    given = [str(words.get(word, word)) for word in args.split()]
    if given[0] == "ENCODE":
        given = encode_args(lost, "train", *given[1:])
    line = fails(main, given)
    assert LOST in line
    assert REMEDY in line
    assert sorted(lost.url.rglob("*")) == before


def test_only_the_split_that_lost_it_is_refused(copied_store: TinyStore) -> None:
    shutil.rmtree(copied_store.url / ".latent_store/cityscapes/train")
    store = latent_store.open(copied_store.url)
    assert store.splits() == [SPLIT, "cityscapes/val"]
    assert store["cityscapes/val"].labels().rows.size
    with pytest.raises(IntegrityError, match=LOST):
        store[SPLIT]


def test_deleting_the_split_and_encoding_again_mends_it(lost: TinyStore) -> None:
    for split in ("train", "val"):
        shutil.rmtree(lost.url / "cityscapes" / split)
    assert encode.main(encode_args(lost, "val")) == 0
    assert cli.main(["verify", str(lost.url)]) == 0


def test_a_lost_plan_is_made_again_from_the_same_data(copied_store: TinyStore) -> None:
    plan = copied_store.url / plan_key("cityscapes", "val")
    before = plan.read_bytes()
    plan.unlink()
    with pytest.raises(IntegrityError, match=r"plan.json is missing though .* run encode-to-store"):
        latent_store.open(copied_store.url)["cityscapes/val"]
    assert encode.main(encode_args(copied_store, "val")) == 0
    assert plan.read_bytes() == before


@pytest.mark.parametrize("stray", ["made/.DS_Store", "other/x/y", "other/train/labels"])
def test_what_is_no_split_is_none(copied_store: TinyStore, stray: str) -> None:
    (copied_store.url / stray).mkdir(parents=True)
    store = latent_store.open(copied_store.url)
    assert store.splits() == [SPLIT, "cityscapes/val"]


@pytest.mark.parametrize("action", ["verify", "finalize"])
def test_what_reads_all_splits_names_each(
    lost: TinyStore, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([action, str(lost.url)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [LOST in line for line in lines] == [True, False]
    assert LOST.replace("train", "val") in lines[1]
