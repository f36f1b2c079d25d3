"""The same command again, after a kill at any change that a job makes, ends in the same store."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import latent_store
from latent_store import cli
from latent_store.catalogue import codecs
from latent_store.format.plan_files import parts_prefix, plan_key, to_json
from latent_store.storage import groups
from latent_store.storage.changes import told
from latent_store.storage.location import CONTROL, Location
from pipelines import frequency
from pipelines.jobs import component_job
from tests.pipelines.kills import Job, contents, walk
from tests.pipelines.tiny_jobs import (
    SPLIT,
    closing,
    encoding,
    in_turn,
    picture_of,
    ranking,
    reordering,
    run,
)

pytestmark = pytest.mark.usefixtures("serial")


@pytest.fixture(scope="module")
def stages(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """What each job begins with: stores of two pictures, ranked, reordered."""
    root = tmp_path_factory.mktemp("stages")
    found = {"nothing": root / "nothing"}
    last = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(component_job, "run_over_shards", in_turn)
        for name, job in (
            ("encoded", encoding(inputs, "--max_samples", "2")),
            ("ranked", ranking()),
            ("reordered", reordering()),
        ):
            found[name] = root / name
            if last is not None:
                shutil.copytree(last, found[name])
            job(found[name])
            last = found[name]
        found["damaged"] = Path(shutil.copytree(found["reordered"], root / "damaged"))
        (found["damaged"] / "cityscapes/train/labels/segmentation/c/0/0/0").write_bytes(b"junk")
        (metadata,) = found["damaged"].glob("cityscapes/train/latents/*/y_hat/zarr.json")
        metadata.write_text(metadata.read_text().replace('"fill_value": 0', '"fill_value": 1'))
        found["older"] = _of_version_1(shutil.copytree(found["encoded"], root / "older"))
        found["mended"] = _with_a_row_to_mend(inputs, root)
        yield found


def _of_version_1(url: Path) -> Path:
    """Makes a store one whose plan is one text."""
    location = Location(url)
    plan = latent_store.open(url)["cityscapes/train"].plan
    (url / plan_key("cityscapes", "train")).write_bytes(to_json(plan))
    location.delete_tree(parts_prefix("cityscapes", "train"))
    groups.update_attrs(location, "", {"encoding-version": "1.3"})
    return url


def _with_a_row_to_mend(inputs: Path, root: Path) -> Path:
    """Makes a store in which a picture failed that can be read by now, in a shard with another."""
    own = Path(shutil.copytree(inputs, root / "inputs"))
    picture_of(own, 0).write_bytes(picture_of(own, 0).read_bytes()[:100])
    encoding(own, "--max_samples", "2", *MENDING)(root / "mended")
    return root / "mended"


def repairing(inputs: Path) -> Job:
    """Returns what drops what is damaged, and makes it again."""

    def repair(url: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main(["verify", str(url), "--repair"])
        encoding(inputs, "--max_samples", "2")(url)
        reordering()(url)

    return repair


JOBS: dict[str, tuple[str, Callable[[Path], Job]]] = {
    "encode": ("nothing", lambda inputs: encoding(inputs, "--max_samples", "2")),
    "append": ("encoded", encoding),
    "append to version 1": ("older", encoding),
    "channel-frequency": ("encoded", lambda _: ranking()),
    "channel-frequency --overwrite": ("reordered", lambda _: ranking("--seed", "1", "--overwrite")),
    "reorder": ("ranked", lambda _: reordering()),
    "reorder --overwrite": ("reordered", lambda _: reordering("--overwrite")),
    "finalize": ("reordered", lambda _: closing),
    "repair": ("damaged", repairing),
    "mend and append": ("mended", lambda inputs: encoding(inputs, *MENDING)),
}
RARE = ("append", "append to version 1", "mend and append", "reorder --overwrite")
"""Take minutes together, and are made of what the others do."""
MENDING = ("--samples_per_shard", "2", "--max_failures", "1")


@pytest.mark.parametrize("name", [name for name in JOBS if name not in RARE])
def test_killed_at_any_kind_of_change_it_is_right_when_run_again(
    name: str, inputs: Path, stages: dict[str, Path], tmp_path: Path
) -> None:
    _walk(name, inputs, stages, tmp_path, "ends")


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_killed_at_any_change_it_is_right_when_run_again(
    name: str, inputs: Path, stages: dict[str, Path], tmp_path: Path
) -> None:
    _walk(name, inputs, stages, tmp_path, "every")


def _walk(name: str, inputs: Path, stages: dict[str, Path], root: Path, moments: str) -> None:
    stage, make = JOBS[name]
    url = root / "s.zarr"
    if stages[stage].exists():
        shutil.copytree(stages[stage], url)
    (root / "kills").mkdir()
    kills, wrong = walk(make(inputs), url, root / "kills", moments)
    assert wrong == []
    # What is finished already is compared, and nothing is written.
    assert kills >= (0 if name == "finalize" else 5)


class Killed(Exception):
    """Stands for the end of a process, in it: nothing that it does later reaches the disk."""


def killed_before(job: Job, url: Path, what: str, part: str) -> None:
    """Runs a job up to its first change of a kind at a path with some part in it."""
    dead = []

    def kill(change: str, path: str) -> None:
        if dead or (change == what and part in path):
            dead.append(path)
            raise Killed(path)

    with told(kill), pytest.raises(Killed):
        job(url)


def test_a_ranking_half_written_is_none_and_is_written_by_the_same_command(
    stages: dict[str, Path], tmp_path: Path
) -> None:
    url = Path(shutil.copytree(stages["encoded"], tmp_path / "s.zarr"))
    killed_before(ranking(), url, "replace", "rankings/r/order")
    store = latent_store.open(url)
    codec_id = store.codec().codec_id
    assert store.rankings(codec_id) == []
    with pytest.raises(latent_store.LatentStoreError, match=f"{codec_id} has no ranking 'r'"):
        store.ranking(codec_id, "r")
    ranking()(url)
    assert store.rankings(codec_id) == ["r"]


def test_what_counting_left_is_removed_by_the_same_command(
    stages: dict[str, Path], tmp_path: Path
) -> None:
    url = Path(shutil.copytree(stages["encoded"], tmp_path / "s.zarr"))
    left = url / CONTROL / "counts" / latent_store.open(url).codec().codec_id / "v" / "network.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"network" * 1000)
    args = ("--method", "variance", "--ranking", "v", "--keep", "8")
    run(frequency.main, "--store", url, *SPLIT, *args)
    assert not left.parent.exists()
    assert "counts" not in "".join(contents(url))


def test_what_a_killed_worker_left_where_another_went_on_goes_with_the_same_command(
    inputs: Path, stages: dict[str, Path], tmp_path: Path
) -> None:
    url = Path(shutil.copytree(stages["encoded"], tmp_path / "s.zarr"))
    encoding(inputs)(url)
    whole = contents(url)
    receipt = next((url / CONTROL).glob("cityscapes/train/receipts/latents/*/000000.json"))
    for left in (
        url / "cityscapes/train/labels/segmentation/c/1/0/.0.0123abcd",
        receipt.with_name(".000001.json.4567abcd"),
    ):
        assert left.parent.is_dir()
        left.write_bytes(b"half")
    encoding(inputs)(url)
    assert contents(url) == whole


def test_a_teachers_file_half_written_is_none(tmp_path: Path) -> None:
    location, data = Location(tmp_path / "s.zarr"), b"a teacher" * 100
    teacher_id = f"t-{hashlib.sha256(data).hexdigest()[:8]}"
    killed_before(
        lambda _: codecs.register_teacher(location, teacher_id, data), tmp_path, "replace", ".pt"
    )
    folder = tmp_path / "s.zarr" / CONTROL / "teachers"
    (folder / f".{teacher_id}.pt.0123abcd").write_bytes(data[:50])
    (folder / ".DS_Store").write_bytes(b"Bud1")
    assert codecs.list_teachers(location) == []
    codecs.register_teacher(location, teacher_id, data)
    assert codecs.list_teachers(location) == [teacher_id]
    assert sorted(path.name for path in folder.iterdir()) == [".DS_Store", f"{teacher_id}.pt"]


def test_killed_between_seal_and_publishing_foreign_readers_see_it_after_the_same_command(
    inputs: Path, stages: dict[str, Path], tmp_path: Path
) -> None:
    url = Path(shutil.copytree(stages["encoded"], tmp_path / "s.zarr"))
    whole = Path(shutil.copytree(stages["encoded"], tmp_path / "whole.zarr"))
    encoding(inputs)(whole)
    last = latent_store.open(url)["cityscapes/train"].latents().key
    killed_before(encoding(inputs), url, "delete", f"{last.replace('/', '-')}.former.parquet")
    # Sealed, and every row is read; but the root's metadata is that of the two pictures.
    assert latent_store.open(url)["cityscapes/train"].latents().rows.tolist() == [0, 1, 2]
    assert cli.main(["verify", str(url)]) == 1
    encoding(inputs)(url)
    assert cli.main(["verify", str(url)]) == 0
    assert contents(url) == contents(whole)
