"""The loader, on a real store: what it reads, crops, repeats, continues, and refuses."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import latent_store
from latent_store.batches.prefetch import Prefetcher
from latent_store.batches.sampling import crop_origin
from latent_store.codec import codec_from_store, tensor_to_image
from latent_store.components.features import FeaturesReader
from latent_store.errors import (
    DatasetError,
    JobFailedError,
    LatentStoreError,
    MissingComponentError,
)
from tests.conftest import HEIGHT, RANKING, TRAIN, WIDTH, TinyStore
from training.data.loader import CropLoader, WholeImages
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoredChannels, StoreSource
from training.tasks.annotations import PixelLabels
from training.trainer.initialise import feature_statistics

CODED = (128, 192)


def make_spec(store: TinyStore, **changed) -> SourceSpec:
    opened = latent_store.open(store.url)
    values = {
        "url": str(store.url),
        "split": "cityscapes/train",
        "annotations": PixelLabels(),
        "domain": "latent",
        "codec_id": opened.codec().codec_id,
        "teacher_id": opened.teachers()[0],
        "stored": StoredChannels(pooled="mean"),
    }
    return SourceSpec(**(values | changed))


def make_loader(spec: SourceSpec, seed: int = 0, **changed) -> CropLoader:
    values = {"batch_size": 2, "crop": 64, "workers": 0}
    return CropLoader(StoreSource(spec), LoaderConfig(**(values | changed)), seed=seed)


def epochs(loader: CropLoader, count: int = 1) -> list[dict]:
    return [batch for _ in range(count) for batch in loader]


def assert_same(mine: dict, theirs: dict) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        same = torch.equal(value, theirs[name]) if torch.is_tensor(value) else value == theirs[name]
        assert same, name


def test_crops_of_latents_labels_and_features_belong_together(tiny_store: TinyStore) -> None:
    split = latent_store.open(tiny_store.url)["cityscapes/train"]
    latents, labels, teacher = split.latents(), split.labels(), split.teacher()
    for batch in make_loader(make_spec(tiny_store), seed=3):
        assert batch["y_hat_BCHW"].shape == (2, 192, 4, 4)
        for i, row in enumerate(batch["rows_B"].tolist()):
            top, left = crop_origin(3, 0, row, size=CODED, crop=(64, 64))
            y = latents.read([row])[0, :, top // 16 : top // 16 + 4, left // 16 : left // 16 + 4]
            assert np.array_equal(batch["y_hat_BCHW"][i].numpy(), y)
            assert np.array_equal(
                batch["labels_BHW"][i].numpy(), labels.read([row], (top, left, 64, 64))[0]
            )
            assert np.array_equal(
                batch["features_BCHW"][i].numpy(),
                teacher.read([row], (top // 4, left // 4, 16, 16))[0],
            )
            expected = [min(HEIGHT - top, 64), min(WIDTH - left, 64)]
            assert batch["valid_B2"][i].tolist() == [max(0, n) for n in expected]
            assert batch["sample_ids"][i] == split.sample_ids([row])[0]


@pytest.mark.parametrize("cache_mb", [0, 1024])
def test_features_that_are_not_finite_name_their_sample(
    tiny_store: TinyStore, monkeypatch, cache_mb: int
) -> None:
    read = FeaturesReader.read

    def damaged(self: FeaturesReader, rows, window=None) -> np.ndarray:
        features = read(self, rows, window)
        features[[int(row) == 4 for row in rows], :, -1] = np.nan
        return features

    monkeypatch.setattr(FeaturesReader, "read", damaged)
    loader = make_loader(make_spec(tiny_store, cache_mb=cache_mb), crop=0)
    sample, teacher = loader.source.split.sample_ids([4])[0], loader.source.teacher.teacher_id
    message = f"features of {sample} by teacher {teacher} in cityscapes/train are not finite"
    with pytest.raises(DatasetError, match=message):
        epochs(loader)
    with pytest.raises(DatasetError, match=message):
        feature_statistics(loader.source)


def test_pooled_values_and_bits_are_the_whole_images(tiny_store: TinyStore) -> None:
    reader = latent_store.open(tiny_store.url)["cityscapes/train"].latents()
    for kind in ("mean", "rms"):
        batch = next(iter(make_loader(make_spec(tiny_store, stored=StoredChannels(pooled=kind)))))
        rows = batch["rows_B"].numpy()
        assert np.array_equal(batch["pooled_BC"].numpy(), reader.column(f"channel_{kind}", rows))
        bits = reader.column("channel_bits", rows)
        assert np.array_equal(batch["channel_bits_BC"].numpy(), bits)
        assert batch["pixels_B"].tolist() == [HEIGHT * WIDTH] * 2


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_the_cache_changes_nothing(tiny_store: TinyStore, cache_mb: int) -> None:
    plain = epochs(make_loader(make_spec(tiny_store, cache_mb=1024)), 2)
    for mine, theirs in zip(
        plain, epochs(make_loader(make_spec(tiny_store, cache_mb=cache_mb)), 2), strict=True
    ):
        assert_same(mine, theirs)


def test_a_static_network_gets_its_channels_in_ranked_order(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    stored = StoredChannels(ranking_id=RANKING, keep=5)
    spec = make_spec(tiny_store, stored=stored, teacher_id=None)
    order = store.ranking(spec.codec_id, RANKING).channels(5)
    whole = epochs(make_loader(make_spec(tiny_store, teacher_id=None)))
    for mine, theirs in zip(epochs(make_loader(spec)), whole, strict=True):
        assert torch.equal(mine["rows_B"], theirs["rows_B"])
        assert torch.equal(mine["y_hat_BCHW"], theirs["y_hat_BCHW"][:, list(order)])
        assert "features_BCHW" not in mine
        assert "pooled_BC" not in mine


def test_pixels_are_decoded_whole_rounded_and_then_cropped(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    codec = codec_from_store(store)
    spec = make_spec(tiny_store, domain="pixel", teacher_id=None)
    batch = next(iter(make_loader(spec)))
    assert batch["x_BCHW"].dtype == torch.uint8
    assert batch["x_BCHW"].shape == (2, 3, 64, 64)
    row = int(batch["rows_B"][0])
    y_hat_BCHW = torch.from_numpy(store["cityscapes/train"].latents().read([row]))
    x_hat_HWC = tensor_to_image(codec.reconstruct(y_hat_BCHW))[0]
    top, left = crop_origin(0, 0, row, size=CODED, crop=(64, 64))
    expected = x_hat_HWC[top : top + 64, left : left + 64].transpose(2, 0, 1)
    assert np.array_equal(batch["x_BCHW"][0].numpy(), expected)


def test_an_image_is_decoded_once_within_the_budget(tiny_store: TinyStore, monkeypatch) -> None:
    decoded: list[int] = []
    decode = StoreSource._decode

    def counted(self: StoreSource, y_hat_CHW: np.ndarray, row: int) -> np.ndarray:
        decoded.append(int(row))
        return decode(self, y_hat_CHW, row)

    monkeypatch.setattr(StoreSource, "_decode", counted)
    spec = make_spec(tiny_store, domain="pixel", teacher_id=None)
    epochs(make_loader(spec), 3)
    assert len(decoded) == len(set(decoded)) == TRAIN
    decoded.clear()
    epochs(make_loader(make_spec(tiny_store, domain="pixel", teacher_id=None, cache_mb=0)), 3)
    assert len(decoded) == 3 * TRAIN


def test_all_networks_see_the_same_rows_and_crops(tiny_store: TinyStore) -> None:
    latent = epochs(make_loader(make_spec(tiny_store)))
    pixel = epochs(make_loader(make_spec(tiny_store, domain="pixel", teacher_id=None)))
    for mine, theirs in zip(latent, pixel, strict=True):
        assert torch.equal(mine["rows_B"], theirs["rows_B"])
        assert torch.equal(mine["labels_BHW"], theirs["labels_BHW"])


@pytest.mark.parametrize("crop", [0, 4096])
def test_whole_images(tiny_store: TinyStore, crop: int) -> None:
    batch = next(iter(make_loader(make_spec(tiny_store), crop=crop)))
    assert batch["labels_BHW"].shape == (2, *CODED)
    assert batch["features_BCHW"].shape == (2, 24, 32, 48)
    assert batch["valid_B2"].tolist() == [[HEIGHT, WIDTH]] * 2


@pytest.mark.parametrize(("workers", "kind"), [(1, "thread"), (3, "thread"), (2, "process")])
def test_workers_change_nothing(tiny_store: TinyStore, workers: int, kind: str) -> None:
    spec = make_spec(tiny_store)
    plain = epochs(make_loader(spec, preload_rows=2), 2)
    loader = make_loader(spec, workers=workers, worker_kind=kind, preload_rows=2)
    found = epochs(loader, 2)
    loader.close()
    assert len(found) == len(plain) == 2 * len(loader)
    for mine, theirs in zip(found, plain, strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize("done", range(8))
def test_it_continues_anywhere(tiny_store: TinyStore, done: int) -> None:
    spec = make_spec(tiny_store)
    plain = epochs(make_loader(spec), 4)

    def endless(loader: CropLoader) -> Iterator[dict]:
        while True:
            yield from loader

    first = make_loader(spec, workers=1)
    stream = endless(first)
    for _ in range(done):
        next(stream)
    state = first.state_dict()
    stream.close()
    first.close()
    second = make_loader(spec)
    second.load_state_dict(state)
    rest = list(itertools.islice(endless(second), len(plain) - done))
    for mine, theirs in zip(rest, plain[done:], strict=True):
        assert_same(mine, theirs)


def test_epochs_differ_and_repeat_by_seed(tiny_store: TinyStore) -> None:
    spec = make_spec(tiny_store)
    one, two = make_loader(spec), make_loader(spec, seed=1)
    first, second = epochs(one), epochs(one)
    assert one.epoch == 2
    order = [torch.cat([b["rows_B"] for b in part]).tolist() for part in (first, second)]
    assert sorted(order[0]) == sorted(order[1]) == list(range(TRAIN))
    windows = [torch.cat([b["labels_BHW"] for b in part]) for part in (first, second, epochs(two))]
    assert not torch.equal(windows[0], windows[1])
    assert not torch.equal(windows[0], windows[2])


def test_other_settings_are_not_continued(tiny_store: TinyStore) -> None:
    spec = make_spec(tiny_store)
    state = make_loader(spec).state_dict()
    for changed, message in (
        ({"crop": 128}, "crop of the training data was 64, now it is 128"),
        ({"batch_size": 3}, "batch_size of the training data was 2, now it is 3"),
        ({"seed": 4}, "seed of the training data was 0, now it is 4"),
    ):
        with pytest.raises(LatentStoreError, match=f"cannot resume: {message}"):
            make_loader(spec, **changed).load_state_dict(state)
    del state["settings"]["version of the order"]  # As a release before left it.
    with pytest.raises(
        LatentStoreError, match="version of the order of the training data was None"
    ):
        make_loader(spec).load_state_dict(state)
    fewer = make_spec(tiny_store, max_samples=4)
    with pytest.raises(LatentStoreError, match="number of samples of the training data was 6, now"):
        make_loader(fewer).load_state_dict(state)


def test_validation_takes_every_image_once_in_order(tiny_store: TinyStore) -> None:
    images = WholeImages(StoreSource(make_spec(tiny_store, teacher_id=None)), batch_size=4)
    for _ in range(2):
        batches = list(images)
        assert [batch["rows_B"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
        assert batches[0]["labels_BHW"].shape == (4, *CODED)


def test_what_is_held_out_and_the_rest_are_the_split_and_share_nothing(
    tiny_store: TinyStore,
) -> None:
    ids = StoreSource(make_spec(tiny_store)).sample_ids(range(6))
    hold_out = (ids[1], ids[4])
    rest = StoreSource(make_spec(tiny_store, hold_out=hold_out, max_samples=3))
    held = StoreSource(make_spec(tiny_store, hold_out=hold_out, held=True))
    assert (rest.rows.tolist(), held.rows.tolist()) == ([0, 2, 3], [1, 4])
    for views in (False, True):
        nothing = StoreSource(make_spec(tiny_store, hold_out=tuple(ids), views=views))
        with pytest.raises(DatasetError, match="holds out all 6 samples of cityscapes/train: give"):
            _ = nothing.rows
    wrong = StoreSource(make_spec(tiny_store, hold_out=(ids[1], "atlantis")))
    with pytest.raises(DatasetError, match="--hold_out 'atlantis': no id of cityscapes/train beg"):
        _ = wrong.rows


def test_a_batch_larger_than_the_split(tiny_store: TinyStore) -> None:
    with pytest.raises(LatentStoreError, match="--batch_size 7 is larger than cityscapes/train"):
        make_loader(make_spec(tiny_store), batch_size=7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crop": 100}, "--crop must be a multiple of 16 pixels .* got 100"),
        ({"crop": -16}, "--crop must be 0 or more, got -16"),
        ({"batch_size": 0}, "--batch_size must be 1 or more, got 0"),
        ({"preload_rows": 0}, "--preload_rows must be 1 or more"),
    ],
)
def test_bad_settings(changed, message) -> None:
    with pytest.raises(LatentStoreError, match=message):
        LoaderConfig(**changed)


def test_a_missing_component_names_its_remedy(tiny_store: TinyStore) -> None:
    with pytest.raises(MissingComponentError, match="encode-to-store `teacher_checkpoint=`"):
        make_loader(make_spec(tiny_store, teacher_id="deeplabv3-resnet18-00000000"))


def test_labels_beyond_the_classes(tiny_store: TinyStore) -> None:
    for cache_mb in (0, 64):
        spec = make_spec(tiny_store, annotations=PixelLabels(num_classes=1), cache_mb=cache_mb)
        with pytest.raises(DatasetError, match=r"contain train id \d+, but cityscapes has 1 class"):
            epochs(make_loader(spec))


def fails_at_three(number: int) -> int:
    if number == 3:
        raise LatentStoreError("three")
    return number


@pytest.mark.parametrize(("workers", "kind"), [(0, "thread"), (2, "thread"), (1, "process")])
def test_a_workers_error_arrives_in_its_turn(workers: int, kind: str) -> None:
    prefetcher = Prefetcher(fails_at_three, workers=workers, kind=kind)
    results = prefetcher.map((number,) for number in itertools.count())
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LatentStoreError, match="three"):
        next(results)
    prefetcher.close()


WAITING = """
import os, signal, sys, threading, time
from latent_store.batches.prefetch import Prefetcher

def work(item):
    time.sleep(0.5)
    return item

if __name__ == "__main__":
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    results = Prefetcher(work, workers=2, kind="process").map((item,) for item in range(4))
    # Once while the workers start, and once while they work and the loop waits.
    threading.Thread(target=lambda: os.killpg(0, signal.SIGTERM)).start()
    print(next(results))
    os.killpg(0, signal.SIGTERM)
    print(*results, len(heard))
"""


def test_a_signal_to_the_whole_group_ends_no_worker_that_the_loop_waits_for(
    tmp_path: Path,
) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert (done.stdout, done.returncode) == ("0\n1 2 3 2\n", 0), done.stderr


def test_a_killed_worker_is_one_line() -> None:
    results = Prefetcher(_kill_oneself, workers=1, kind="process").map([(0,)])
    with pytest.raises(JobFailedError, match="a worker that loads data was killed, as systems do"):
        next(results)


def _kill_oneself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_stay_a_few_items_ahead() -> None:
    asked = []

    def items() -> Iterator[tuple[int]]:
        for number in itertools.count():
            asked.append(number)
            yield (number,)

    prefetcher = Prefetcher(abs, workers=2)
    results = prefetcher.map(items())
    next(results)
    assert len(asked) == 3
    results.close()
    prefetcher.close()


def test_unknown_workers() -> None:
    with pytest.raises(LatentStoreError, match="`worker_kind=` thread or process, got 1 and"):
        Prefetcher(abs, workers=1, kind="fork")
