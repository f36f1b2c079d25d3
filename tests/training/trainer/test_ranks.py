"""Two ranks: together they do what one process does, stop together, and go on bit by bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import latent_store
from latent_store.components.latents import LatentsReader
from latent_store.errors import LatentStoreError
from tests.conftest import TinyStore
from tests.training.two_ranks import any_arguments
from training import train
from training.data.loader import CropLoader, WholeImages
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoreSource
from training.selection.cut_norm import keep_statistics_per_cut
from training.tasks.annotations import PixelLabels
from training.trainer.checkpoints import load_network
from training.trainer.ranks import ALONE, Ranks, joined

TWO = (Ranks(rank=0, world=2), Ranks(rank=1, world=2))
ROOT = Path(__file__).parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=560,
    )


def records(output: Path, kind: str) -> list[dict]:
    lines = (output / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def timeless(record: dict) -> dict:
    return {name: v for name, v in record.items() if name not in ("wait_share", "seconds")}


def numbers(record: dict) -> dict:
    return {name: v for name, v in timeless(record).items() if isinstance(v, int | float)}


@pytest.fixture(scope="module")
def left(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs of `two_ranks` left."""
    output = tmp_path_factory.mktemp("ranks")
    done = torchrun("-m", "tests.training.two_ranks", tiny_store.url, output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("last.pt: mIoU") == 1  # the first rank alone talks
    return output


def test_two_ranks_train_what_one_process_trains(
    tiny_store: TinyStore, left: Path, tmp_path: Path
) -> None:
    alone, together = tmp_path / "one", left / "any"
    assert train.main(any_arguments(str(tiny_store.url), alone)) == 0
    one, two = (load_network(output / "last.pt").network for output in (alone, together))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    # Adam does not see a gradient's scale; the norm that clipping reports does.
    (step, *_) = records(alone, "step")
    assert {"gradient_norm", "loss", "distillation", "kept", "labels"} <= step.keys()
    for kind, count in (("step", 2), ("epoch", 2), ("validation", 1)):
        theirs = [numbers(record) for record in records(alone, kind)]
        assert len(theirs) == count
        for record, other in zip(records(together, kind), theirs, strict=True):
            assert numbers(record) == pytest.approx(other, rel=1e-4, abs=1e-3)
    names = sorted(path.name for path in alone.iterdir())
    assert sorted(path.name for path in together.iterdir()) == names


def reasons(left: Path, name: str) -> list[str]:
    return [json.loads((left / f"rank-{rank}.json").read_text())[name] for rank in (0, 1)]


def test_sigterm_on_one_rank_stops_both_after_the_same_step(left: Path) -> None:
    message = f"JobFailedError: stopped by SIGTERM after step 2 of 4; everything is saved in {left}"
    assert all(reason.startswith(message) for reason in reasons(left, "stopped"))


def test_two_ranks_go_on_bit_by_bit(left: Path) -> None:
    assert reasons(left, "whole") == reasons(left, "resumed") == ["nothing"] * 2
    assert (left / "whole/last.pt").read_bytes() == (left / "parted/last.pt").read_bytes()
    for kind in ("step", "epoch"):
        whole, parted = (records(left / name, kind) for name in ("whole", "parted"))
        assert [timeless(r) for r in whole] == [timeless(r) for r in parted]
        assert whole


def test_a_loss_that_is_not_finite_stops_both_and_names_the_rank_s_samples(
    left: Path, tiny_store: TinyStore
) -> None:
    first, second = reasons(left, "poisoned")
    assert first == second
    assert "the loss is not finite at step 2 (epoch 0)" in first
    rows = rows_of(make_loader(tiny_store.url, TWO[1], batch_size=2))[1]
    (name,) = latent_store.open(tiny_store.url)["cityscapes/train"].sample_ids(rows)
    assert f"the batch was {name}; nothing since" in first


def test_refusals_of_two_ranks(left: Path) -> None:
    for reason in reasons(left, "shares"):
        assert "--batch_size 3 counts the images of all ranks together and cannot be" in reason
        assert "give a multiple of 2" in reason
    for reason in reasons(left, "batch norm"):
        assert "which 2 ranks can share on GPUs only, and --device is cpu" in reason
        assert "train with --freeze_batch_norm, or in one process" in reason


def test_statistics_per_cut_are_not_learned_by_several_ranks() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    keep_statistics_per_cut(network, 2)
    with pytest.raises(LatentStoreError, match="--selection any has statistics for every N"):
        TWO[0].prepare(network, torch.device("cuda"), frozen=False)


def test_without_torchrun_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined() as ranks:
        assert ranks == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LatentStoreError, match="start all of them with torchrun"), joined():
        pass


def make_loader(url: Path | str, ranks: Ranks, **changed: int) -> CropLoader:
    codec_id = latent_store.open(url).codec().codec_id
    config = LoaderConfig(**({"batch_size": 4, "crop": 64, "workers": 0} | changed))
    spec = SourceSpec(
        url=str(url),
        split="cityscapes/train",
        annotations=PixelLabels(),
        domain="latent",
        codec_id=codec_id,
        max_samples=config.max_samples,
    )
    return CropLoader(StoreSource(spec), config, seed=0, share=ranks)


def rows_of(loader: CropLoader) -> list[list[int]]:
    return [batch["rows_B"].tolist() for batch in loader]


def test_ranks_share_the_batches_of_one_process(tiny_store: TinyStore) -> None:
    for whole, *parts in zip(
        make_loader(tiny_store.url, ALONE),
        *(make_loader(tiny_store.url, r) for r in TWO),
        strict=True,
    ):
        for name in ("y_hat_BCHW", "labels_BHW", "rows_B", "valid_B2"):
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
        assert all(part["batch_rows"] == whole["batch_rows"] for part in parts)
        assert list(whole["batch_rows"]) == whole["rows_B"].tolist()


def test_a_rank_reads_its_own_rows_only(
    tiny_store: TinyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = LatentsReader.read

    def reading(self: LatentsReader, rows: np.ndarray, *others: object) -> np.ndarray:
        read.extend(np.asarray(rows).tolist())
        return plain(self, rows, *others)

    monkeypatch.setattr(LatentsReader, "read", reading)
    for ranks in TWO:
        read.clear()
        rows = rows_of(make_loader(tiny_store.url, ranks))
        assert sorted(read) == sorted({row for batch in rows for row in batch})
        assert len(read) < 6


def test_ranks_share_the_validation(tiny_store: TinyStore) -> None:
    source = make_loader(tiny_store.url, ALONE).source
    shares = [WholeImages(source, batch_size=4, share=ranks) for ranks in TWO]
    seen = [[b["rows_B"].tolist() for b in images] for images in shares]
    assert seen == [[[0, 1, 2, 3]], [[4, 5]]]
    assert [len(WholeImages(source, batch_size=6, share=ranks)) for ranks in TWO] == [1, 0]
