"""The training loop: it learns, it continues bit by bit, and it stops with a reason."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latent_store.codec.numerics import choose_device
from latent_store.console import run_command
from latent_store.errors import CheckpointError, JobFailedError, LatentStoreError
from training.data.loader import EpochLoader
from training.flags import free_fields
from training.networks.network_config import NetworkConfig
from training.selection.base import cut_batch
from training.tasks.objective import Objective, network_inputs
from training.tasks.registry import build_network
from training.tasks.segmentation import SEGMENTATION, SegmentationLoss
from training.trainer import checkpoints
from training.trainer.arithmetic import flushes_denormals
from training.trainer.checkpoints import load_network
from training.trainer.interruptions import until_stopped
from training.trainer.job import TrainerConfig
from training.trainer.run_folder import RESUME_FILE, FitResult, RunFiles, RunFolder, RunState
from training.trainer.run_log import Clock, Meters
from training.trainer.trainer import Trainer
from training.trainer.validation import Validation, Validator

CHANNELS, CLASSES, BATCHES = 12, 3, 3
CUTS = (4, 8, CHANNELS)
META = {"kind": "network", "dataset": "made", "label": "made", "class_names": ["a", "b", "c"]}


class MadeLoader(EpochLoader):
    """Latents from which labels follow: the class is the strongest of three channels."""

    def __init__(self, *, labels: bool = True, poison: int | None = None) -> None:
        super().__init__()
        self.labels, self.poison, self.given = labels, poison, 0

    def __len__(self) -> int:
        return BATCHES

    def settings(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def stream(self, epoch: int, position: int) -> Generator[dict[str, Any]]:
        while True:
            for index in range(position, BATCHES):
                self.given += 1
                yield self.batch(index)
            position = 0

    def batch(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        y_hat_BCHW = torch.randn(2, CHANNELS, 2, 4, generator=generator).mul(3).round()
        classes_BHW = y_hat_BCHW[:, :CLASSES].argmax(1)
        labels_BHW = classes_BHW.repeat_interleave(16, 1).repeat_interleave(16, 2)
        features_BCHW = y_hat_BCHW[:, :1].repeat(1, 24, 4, 4)
        if self.given == self.poison:
            features_BCHW[0, 0, 0, 0] = math.nan
        return {
            "y_hat_BCHW": y_hat_BCHW.to(torch.int8),
            "pooled_BC": y_hat_BCHW.square().mean((2, 3)).sqrt(),
            "labels_BHW": (labels_BHW if self.labels else labels_BHW * 0 + 255).to(torch.uint8),
            "features_BCHW": features_BCHW,
            "valid_B2": torch.tensor([[32, 64]] * 2),
            "channel_bits_BC": torch.full((2, CHANNELS), 100.0),
            "pixels_B": torch.full((2,), 2048.0),
            "rows_B": torch.tensor([2 * index, 2 * index + 1]),
            "batch_rows": (2 * index, 2 * index + 1),
            "sample_ids": [f"made/{2 * index}", f"made/{2 * index + 1}"],
        }


def make_task(
    selection: str = "none", seed: int = 0, backbone: str = "mobilenet_v2", **weights: float
) -> Objective:
    torch.manual_seed(seed)
    config = NetworkConfig(
        backbone=backbone,
        aspp_width=8,
        num_classes=CLASSES,
        latent_channels=CHANNELS,
        selection=selection,
        **({"channels": tuple(range(CHANNELS)), "cuts": CUTS} if selection == "any" else {}),
    )
    loss = SegmentationLoss(**weights)
    return Objective(SEGMENTATION, build_network(config), loss, seed=seed)


def make_config(**changed: Any) -> TrainerConfig:
    values = {"epochs": 2, "device": "cpu", "log_steps": 1, "tensorboard": False}
    return TrainerConfig(**(values | changed))


def scored(miou: float) -> Validation:
    return Validation(scores={"miou": miou})


def fit(
    task: Any,
    loader: EpochLoader,
    config: TrainerConfig,
    output: Path,
    *,
    validate: Callable[..., Validation] | None = None,
    resume: bool = False,
    codec_bytes: bytes | None = None,
) -> FitResult:
    """Trains as a command does."""
    folder = RunFolder(
        output,
        meta=META,
        config=dataclasses.asdict(config),
        free=free_fields(TrainerConfig),
        codec_bytes=codec_bytes,
        safetensors=config.safetensors,
    )
    return Trainer(task, loader, config, folder, validate=validate).fit(resume=resume)


def records(output: Path, kind: str) -> list[dict[str, Any]]:
    lines = (output / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_network(path).network.state_dict()


def test_it_overfits_a_tiny_problem(tmp_path: Path) -> None:
    loader = MadeLoader()
    validator = Validator(SEGMENTATION, [loader.batch(i) for i in range(BATCHES)], ["a", "b", "c"])
    config = make_config(epochs=20, validate_epochs=0)
    task = make_task(backbone="resnet18", lambda_kd=0.0)  # learns in fewer steps than others
    before = validator(task.network, torch.device("cpu")).scores["miou"]
    result = fit(task, loader, config, tmp_path, validate=validator)
    assert result.scores["miou"] > max(0.5, before + 0.3)
    losses = [record["loss"] for record in records(tmp_path, "epoch")]
    assert losses[-1] < 0.75 * losses[0]


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "one"
    loader = MadeLoader()
    validator = Validator(SEGMENTATION, [loader.batch(0)], ["a", "b", "c"], drawn=True)
    result = fit(
        make_task("dynamic", rate_weight=0.1),
        loader,
        make_config(validate_epochs=1, tensorboard=True, clip_norm=1.0),
        output,
        codec_bytes=b"codec",
        validate=validator,
    )
    assert result.step == 2 * BATCHES
    assert result.epoch == 2
    assert 0 <= result.wait_share <= 1
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md", "best.pt", "config.json", "finished.json", "last.pt", "last.safetensors",
        "log.jsonl", "tb",
    ]  # fmt: skip
    loaded = load_network(result.checkpoint)
    assert loaded.sha256 == result.sha256
    assert loaded.meta["step"] == result.step
    assert loaded.meta["train"]["epochs"] == 2
    assert loaded.codec_bytes == b"codec"
    exported = load_file(output / "last.safetensors")
    assert all(torch.equal(exported[k], v) for k, v in loaded.network.state_dict().items())
    card = (output / "README.md").read_text()
    assert card.startswith("---\nlibrary_name")
    assert f"mIoU {result.scores['miou']:.4f}" in card
    (epoch, _) = records(output, "epoch")
    assert {"loss", "cross_entropy", "distillation", "rate", "wait_share"} <= epoch.keys()
    assert 0 <= epoch["kept_min"] <= epoch["kept_mean"] <= epoch["kept_max"] <= CHANNELS
    (validation, _) = records(output, "validation")
    assert 0 <= validation["kept_min"] <= validation["kept"] <= validation["kept_max"] <= CHANNELS
    for record in (epoch, validation):
        assert 0 <= record["always_on"] + record["never_on"] <= CHANNELS
    assert len(records(output, "validation")) == 2
    assert json.loads((output / "config.json").read_text())["epochs"] == 2
    board = EventAccumulator(str(output / "tb")).Reload()
    shown = {f"validation/{name}" for name in ("made/0", "made/1", "confusion")}
    assert set(board.Tags()["images"]) == shown
    assert {len(board.Images(tag)) for tag in shown} == {2}
    assert "validation/miou" in board.Tags()["scalars"]


def test_reported_weights_are_the_last_ones(tmp_path: Path) -> None:
    scores = iter([0.9, 0.1])
    config = make_config(validate_epochs=1)
    result = fit(
        make_task(), MadeLoader(), config, tmp_path, validate=lambda *_: scored(next(scores))
    )
    assert result.scores == {"miou": 0.1}
    assert load_network(tmp_path / "best.pt").meta["step"] == BATCHES
    assert load_network(result.checkpoint).meta["step"] == 2 * BATCHES


@pytest.mark.parametrize(
    ("selection", "stop_after", "accumulate"),
    [
        *itertools.product(("none", "dynamic"), (1, BATCHES, BATCHES + 2), (1,)),
        ("any", BATCHES + 2, 1),
        # In the middle of an epoch, and behind its last step, which has fewer batches.
        *(("dynamic", batches, 2) for batches in (2, BATCHES)),
    ],
)
def test_a_continued_run_is_the_undisturbed_one_bit_by_bit(
    tmp_path: Path, selection: str, stop_after: int, accumulate: int
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    config = make_config(epochs=2, warmup_steps=2, accumulate=accumulate)
    fit(make_task(selection), MadeLoader(), config, whole)
    task = _Interrupting(make_task(selection), stop_after)
    steps = f"{-(-stop_after // accumulate)} of {6 if accumulate == 1 else 4}"
    with pytest.raises(JobFailedError, match=f"stopped by SIGTERM after step {steps}"):
        fit(task, MadeLoader(), config, parted)
    torch.manual_seed(99)  # whatever the second process starts with
    fit(make_task(selection, seed=0), MadeLoader(), config, parted, resume=True)
    mine, theirs = weights(parted / "last.pt"), weights(whole / "last.pt")
    for name, value in theirs.items():
        assert torch.equal(value, mine[name]), name
    assert (whole / "last.pt").read_bytes() == (parted / "last.pt").read_bytes()
    for kind in ("step", "epoch"):
        plain = [_timeless(record) for record in records(whole, kind)]
        assert plain == [_timeless(record) for record in records(parted, kind)]


def test_ctrl_c_saves_the_step_under_way_and_names_what_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = _Interrupting(make_task(), 2, signal.SIGINT)
    config = make_config(epochs=2)
    assert run_command("train", lambda: fit(task, MadeLoader(), config, tmp_path).step) == 130
    told = capsys.readouterr().err
    assert told.count("stopping after this step; Ctrl-C once more to stop at once") == 1
    assert told.splitlines()[-1] == (
        f"train: error: stopped by Ctrl-C after step 2 of 6; everything is saved in {tmp_path}: "
        "go on with the same command and --resume"
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(LatentStoreError, match="holds a run already: go on with it with --resume"):
        fit(make_task(), MadeLoader(), config, tmp_path)
    assert [record["step"] for record in records(tmp_path, "step")] == [1, 2]
    assert fit(make_task(), MadeLoader(), config, tmp_path, resume=True).step == 6
    assert [record["step"] for record in records(tmp_path, "step")] == [1, 2, 3, 4, 5, 6]


def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    task = _Interrupting(make_task(), 2, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="interrupted at once; go on from the last save"):
        fit(task, MadeLoader(), make_config(), tmp_path)
    assert not (tmp_path / RESUME_FILE).exists()


def test_a_second_ctrl_c_ends_what_no_python_interrupts() -> None:
    command = [sys.executable, "-c", _DEAF]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert "stopping after this step" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert "interrupted at once; go on from the last save" in process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT


def test_sigterm_twice_stops_at_once_and_its_echo_does_not(tmp_path: Path) -> None:
    task = _Interrupting(make_task(), 2, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(JobFailedError, match="stopped by SIGTERM after step 2 of 3; everything is"):
        fit(task, MadeLoader(), make_config(epochs=1), tmp_path)
    with until_stopped() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == [signal.SIGTERM]
        time.sleep(1.1)
        with pytest.raises(JobFailedError, match="interrupted at once; go on from"):
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        task = _Interrupting(make_task(), 2, signal.SIGINT)
        assert fit(task, MadeLoader(), make_config(epochs=1), tmp_path).step == BATCHES
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_runs_configuration_holds_neither_paths_nor_credentials(tmp_path: Path) -> None:
    given = {
        "store": "s3://key:secret@bucket/s.zarr?X=1",
        "data_root": "/home/me/data",
        "data": "https://me:secret@host/home/pictures",
        "init_from": "/home/me/last.pt",
        "pretrained": "imagenet",
        "seed": 0,
    }
    files = RunFiles(tmp_path / "a.pt", tmp_path / "log", config=given, free=frozenset())
    shown = {"store": "s3://bucket/s.zarr", "data_root": "data", "data": "pictures"}
    assert files.config == {**given, **shown, "init_from": "last.pt"}


_DEAF = """
import signal, sys
from training.trainer import interruptions

interruptions._GRACE_SECONDS = 0.3
with interruptions.until_stopped():
    # As in a long backward pass: handlers wait until Python runs again.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.stderr.write("begun\\n")
    while True:
        signal.pause()
"""


class _Interrupting:
    """A task in whose step number `stop_after` signals arrive."""

    def __init__(self, task: Objective, stop_after: int, *signals: int) -> None:
        self.task, self.left, self.signals = task, stop_after, signals or (signal.SIGTERM,)
        self.network = task.network

    def __call__(self, *args: Any) -> dict[str, torch.Tensor]:
        self.left -= 1
        if self.left == 0:
            for number in self.signals:
                os.kill(os.getpid(), number)
        return self.task(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in record.items() if name not in ("wait_share", "seconds")}


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    first = fit(make_task(), MadeLoader(), make_config(), tmp_path)
    loader = MadeLoader()
    again = fit(make_task(), loader, make_config(), tmp_path, resume=True)
    assert again.sha256 == first.sha256
    assert loader.given == 0


@pytest.mark.parametrize("scores", [[0.1, 0.9], [0.9, 0.1]])
def test_a_finished_run_keeps_no_weights_twice(tmp_path: Path, scores: list[float]) -> None:
    config = make_config(validate_epochs=1, safetensors=False)
    validations = iter(scores)
    fit(
        make_task(),
        MadeLoader(),
        config,
        tmp_path,
        validate=lambda *_: Validation(scores={"miou": next(validations)}),
    )
    last_is_best = scores[1] > scores[0]
    assert (tmp_path / "best.pt").samefile(tmp_path / "last.pt") == last_is_best
    assert load_network(tmp_path / "best.pt").meta["step"] == BATCHES * (1 + last_is_best)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "best.pt", "config.json", "finished.json", "last.pt", "log.jsonl",
    ]  # fmt: skip
    record = json.loads((tmp_path / "finished.json").read_text())
    assert record["state"]["best_score"] == 0.9
    assert record["state"]["finished"]


def test_a_folder_of_an_earlier_version_still_opens(tmp_path: Path) -> None:
    class Earlier(RunFolder):
        def close(self, state: RunState) -> None:
            """Keeps what is there."""

        def save(self, network: Any, state: RunState, parts: Mapping[str, Any]) -> None:
            super().save(network, state, parts)
            RunFiles.save(self, network, state, parts)

    config, validate = make_config(validate_epochs=0), (lambda *_: scored(0.5))
    free, values = free_fields(TrainerConfig), dataclasses.asdict(config)
    earlier = Earlier(tmp_path, meta=META, config=values, free=free)
    first = Trainer(make_task(), MadeLoader(), config, earlier, validate=validate).fit()
    assert (tmp_path / RESUME_FILE).exists()
    assert not (tmp_path / "finished.json").exists()
    for _ in range(2):
        loader = MadeLoader()
        again = fit(make_task(), loader, config, tmp_path, validate=validate, resume=True)
        assert (again.sha256, again.step, loader.given) == (first.sha256, first.step, 0)
        assert not (tmp_path / RESUME_FILE).exists()
        assert (tmp_path / "best.pt").samefile(tmp_path / "last.pt")


def test_a_run_of_an_earlier_version_goes_on_at_one_rate(tmp_path: Path) -> None:
    def task(rate: float) -> Objective:
        made = make_task()
        made.rate_shares = {"transform": rate}
        return made

    whole = fit(make_task(), MadeLoader(), make_config(), tmp_path / "whole")
    _begin(tmp_path / "half", finished=False)
    file = tmp_path / "half" / RESUME_FILE
    saved = torch.load(file, weights_only=True)
    del saved["optimizer"]["param_groups"][0]["share"]
    checkpoints.write_payload(file, {k: v for k, v in saved.items() if k != checkpoints.DIGEST})
    gone_on = fit(task(0.1), MadeLoader(), make_config(), tmp_path / "half", resume=True)
    assert gone_on.sha256 == whole.sha256


def test_a_damaged_record_of_a_finished_run(tmp_path: Path) -> None:
    fit(make_task(), MadeLoader(), make_config(), tmp_path)
    (tmp_path / "finished.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged .* finished: use its last.pt"):
        fit(make_task(), MadeLoader(), make_config(), tmp_path, resume=True)


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    fit(make_task(), MadeLoader(), make_config(), tmp_path)
    with pytest.raises(LatentStoreError, match="holds a run already: go on with it with --resume"):
        fit(make_task(), MadeLoader(), make_config(), tmp_path)


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_configuration_is_named(tmp_path: Path, *, finished: bool) -> None:
    _begin(tmp_path, finished=finished)
    for changed, message in (
        ({"learning_rate": 0.5}, "another --learning_rate: the run has 0.001, now it is 0.5"),
        ({"epochs": 3}, "another --epochs: the run has 2, now it is 3"),
    ):
        with pytest.raises(LatentStoreError, match=f"cannot resume with {message}"):
            fit(make_task(), MadeLoader(), make_config(**changed), tmp_path, resume=True)
    if not finished:
        with pytest.raises(LatentStoreError, match="labels of the training data was True, now"):
            fit(make_task(), MadeLoader(labels=False), make_config(), tmp_path, resume=True)
    fit(make_task(), MadeLoader(), make_config(checkpoint_minutes=1.0), tmp_path, resume=True)


def _begin(output: Path, *, finished: bool) -> None:
    """Leaves a run that is finished, or was stopped after its first step."""
    task = _Interrupting(make_task(), 0 if finished else 1)
    stopped = contextlib.nullcontext() if finished else pytest.raises(JobFailedError)
    with stopped:
        fit(task, MadeLoader(), make_config(), output)


def test_a_damaged_resume_file(tmp_path: Path) -> None:
    _begin(tmp_path, finished=False)
    data = (tmp_path / RESUME_FILE).read_bytes()
    (tmp_path / RESUME_FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        fit(make_task(), MadeLoader(), make_config(), tmp_path, resume=True)


def test_a_loss_that_is_not_finite_names_its_samples(tmp_path: Path) -> None:
    loader = MadeLoader(poison=BATCHES + 2)
    config = make_config(epochs=4, checkpoint_epochs=1, log_steps=2)
    with pytest.raises(JobFailedError, match=r"step 5 \(epoch 1\); the batch was made/2, made/3"):
        fit(make_task(), loader, config, tmp_path)
    assert load_network(tmp_path / "last.pt").meta["step"] == BATCHES
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "last.pt").values())


def test_labels_that_are_all_ignored(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="every pixel of the images of this epoch is"):
        fit(make_task(), MadeLoader(labels=False), make_config(), tmp_path)


def test_a_last_epoch_that_is_short_may_lack_labels(tmp_path: Path) -> None:
    class Loader(MadeLoader):
        def batch(self, index: int) -> dict[str, Any]:
            batch = super().batch(index)
            if index == 0:
                batch["labels_BHW"].fill_(255)
            return batch

    fit(make_task(), Loader(), make_config(max_steps=BATCHES + 1), tmp_path)
    assert load_network(tmp_path / "last.pt").meta["step"] == BATCHES + 1


def test_validation_without_labels_loses_nothing(tmp_path: Path) -> None:
    validator = Validator(SEGMENTATION, [MadeLoader(labels=False).batch(0)], ["a", "b", "c"])
    with pytest.raises(LatentStoreError, match="mIoU is undefined"):
        fit(
            make_task(), MadeLoader(), make_config(validate_epochs=0), tmp_path, validate=validator,
        )  # fmt: skip
    assert load_network(tmp_path / "last.pt").meta["step"] == 2 * BATCHES


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    fit(make_task(), MadeLoader(), make_config(accumulate=2), tmp_path)
    steps = records(tmp_path, "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert [record["labels"] for record in steps] == [8192, 4096, 8192, 4096]


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    for name, joined in (("parts", False), ("whole", True)):
        task = make_task(rate_weight=0.0)
        task.network.tail.head[0].project[-1].p = 0.0  # dropout draws for other shapes
        config = make_config(
            epochs=1,
            accumulate=1 if joined else BATCHES,
            learning_rate=1e-4,
            freeze_batch_norm=True,
            clip_norm=1.0,
        )
        fit(task, UnevenLoader(joined=joined), config, tmp_path / name)
    ((mine,), (theirs,)) = (records(tmp_path / name, "step") for name in ("parts", "whole"))
    names = {"loss", "cross_entropy", "distillation", "gradient_norm", "labels"}
    assert {n: mine[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-4)
    whole = weights(tmp_path / "whole/last.pt")
    for name, value in weights(tmp_path / "parts/last.pt").items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-5)


class UnevenLoader(MadeLoader):
    """Batches of which some have fewer labels and cells than others; or all of them in one."""

    def __init__(self, *, joined: bool) -> None:
        super().__init__()
        self.joined = joined

    def __len__(self) -> int:
        return 1 if self.joined else BATCHES

    def batch(self, index: int) -> dict[str, Any]:
        batches = [self.part(i) for i in (range(BATCHES) if self.joined else [index])]
        return {
            name: torch.cat([b[name] for b in batches])
            if torch.is_tensor(value)
            else [sample_id for b in batches for sample_id in b[name]]
            for name, value in batches[0].items()
        }

    def part(self, index: int) -> dict[str, Any]:
        batch = super().batch(index)
        batch["labels_BHW"][:, : 8 * index] = 255
        batch["valid_B2"] -= 8 * index
        return batch


def test_max_steps_ends_the_run_and_fits_the_schedule(tmp_path: Path) -> None:
    config = make_config(epochs=100, max_steps=8)
    result = fit(make_task(), MadeLoader(), config, tmp_path)
    assert result.step == 8
    rates = [record["learning_rate"] for record in records(tmp_path, "step")]
    assert rates == pytest.approx([1e-3] * 6 + [1e-4] * 2)


def test_the_papers_schedule() -> None:
    config = TrainerConfig()
    assert config.total_steps(10) == 4000
    assert config.rate(0, 4000) == config.rate(2999, 4000) == 1e-3
    assert config.rate(3000, 4000) == config.rate(3999, 4000) == pytest.approx(1e-4)
    warm = dataclasses.replace(config, warmup_steps=4)
    assert [warm.rate(step, 4000) for step in range(5)] == pytest.approx(
        [0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3]
    )


def test_frozen_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    fit(make_task(), MadeLoader(), make_config(freeze_batch_norm=True), tmp_path)
    state = weights(tmp_path / "last.pt")
    assert all((v == 0).all() for k, v in state.items() if k.endswith("running_mean"))
    assert all(int(v) == 0 for k, v in state.items() if k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("selection", ["any", "none"])
def test_a_network_for_any_n_ends_with_statistics_of_its_last_weights(
    tmp_path: Path, selection: str
) -> None:
    config = make_config(validate_epochs=0)
    fit(make_task(selection), MadeLoader(), config, tmp_path)
    network = load_network(tmp_path / "last.pt").network
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    kept = {name: norm.running_mean.clone() for name, norm in norms.items()}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].mean((0, 2, 3)))
        )
    cuts, loader = network.config.cuts or (CHANNELS,), MadeLoader()
    with torch.no_grad():
        for norm in norms.values():  # the rest is in evaluation: nothing is dropped out
            norm.train()
        for index in range(BATCHES):
            batch = loader.batch(index)
            for keep in cuts:
                network(*network_inputs(network, cut_batch(batch, keep)))
    apart = []
    for name, means in seen.items():
        mean = torch.stack(means).reshape(BATCHES, len(cuts), -1).mean(0)
        mean = mean if network.config.cuts else mean[0]
        apart += [] if torch.allclose(kept[name], mean, rtol=1e-3, atol=1e-4) else [name]
    # Of the others some are near by chance: their activations are all but 0.
    assert len(apart) == 0 if selection == "any" else len(apart) > len(seen) / 2


def test_a_run_stopped_before_its_statistics_were_taken_goes_on_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, *, resume: bool = False) -> dict[str, torch.Tensor]:
        loader = MadeLoader()
        validator = Validator(SEGMENTATION, [loader.batch(0)], ["a", "b", "c"])
        config = make_config(checkpoint_minutes=1e-9)
        args = (make_task("any"), loader, config, tmp_path / folder)
        result = fit(*args, validate=validator, resume=resume)
        assert set(result.scores) > {"miou", "miou_at/4"}
        return weights(tmp_path / folder / "last.pt")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    undisturbed = run("one")
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "settle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("two")
    unsettled = weights(tmp_path / "two/last.pt")
    name = next(name for name in undisturbed if name.endswith("running_mean"))
    assert not torch.equal(unsettled[name], undisturbed[name])
    for name, value in run("two", resume=True).items():
        assert torch.equal(value, undisturbed[name]), name


def test_steps_take_denormal_gradients_for_zero(tmp_path: Path) -> None:
    able = torch.set_flush_denormal(False)  # False on a processor that cannot

    class Watched(Objective):
        def anneal(self, progress: float) -> None:
            seen.append(flushes_denormals())
            super().anneal(progress)

    seen: list[bool] = []
    made = make_task("dynamic")
    fit(Watched(SEGMENTATION, made.network, made.loss), MadeLoader(), make_config(), tmp_path)
    assert seen == [able] * 2 * BATCHES
    assert not flushes_denormals()


@pytest.mark.parametrize("selection", ["dynamic", "any"])
def test_a_deterministic_run_equals_itself(tmp_path: Path, selection: str) -> None:
    class Watched(Objective):
        def anneal(self, progress: float) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())
            super().anneal(progress)

    seen: list[bool] = []
    for name in ("first", "second"):
        made = make_task(selection)
        task = Watched(SEGMENTATION, made.network, made.loss)
        fit(task, MadeLoader(), make_config(deterministic=True), tmp_path / name)
    assert (tmp_path / "first/last.pt").read_bytes() == (tmp_path / "second/last.pt").read_bytes()
    assert len(seen) == 4 * BATCHES
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_trains(tmp_path: Path) -> None:
    config = make_config(amp="bf16", epochs=1)
    fit(make_task("dynamic"), MadeLoader(), config, tmp_path)
    assert all(v.dtype != torch.bfloat16 for v in weights(tmp_path / "last.pt").values())
    assert math.isfinite(records(tmp_path, "epoch")[0]["loss"])


def test_the_temperature_is_annealed(tmp_path: Path) -> None:
    task = make_task("dynamic")
    task.temperature = (2.0, 1.0)
    fit(task, MadeLoader(), make_config(), tmp_path)
    assert float(task.network.gate.temperature) == pytest.approx(2 - 5 / 6)


def test_meters_survive_saving() -> None:
    meters, other = Meters(), Meters()
    for step in range(4):
        parts = {"loss": torch.tensor(float(step)), "kept": torch.tensor([1.0, 2.0 + step])}
        meters.add(parts | {"decisions": torch.tensor([2, 0, 1, step % 2])})
    other.load_state_dict(meters.state_dict(), torch.device("cpu"))
    assert other.means() == meters.means()
    assert meters.means()["loss"] == 1.5
    assert meters.means()["kept_max"] == 5
    # Of eight images the first channel was kept in all, the second in none.
    assert (meters.means()["always_on"], meters.means()["never_on"]) == (1, 1)


def test_the_clock_counts_waiting_only() -> None:
    clock = Clock()
    assert list(clock.timed(iter([1, 2, 3]))) == [1, 2, 3]
    assert 0 <= clock.waited <= clock.total


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(LatentStoreError, match="`device=` must be auto, cpu or cuda"):
        choose_device("abacus")
    # Devices of torch that nothing here computes on.
    for name in ("mps", "meta", "cpu:1", "xpu"):
        with pytest.raises(LatentStoreError, match=f"auto, cpu or cuda.:N., got '{name}'"):
            choose_device(name)
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(LatentStoreError, match="there is no CUDA device here"):
            choose_device("cuda")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "--epochs must be 1 or more, got 0"),
        ({"accumulate": 0}, "--accumulate must be 1 or more"),
        ({"drop_at": 1.5}, "--drop_at must be 0 to 1, got 1.5"),
        ({"learning_rate": 0.0}, "--learning_rate must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "--learning_rate must be finite, got nan"),
        ({"seed": -1}, "--seed must be 0 to 4294967295, got -1"),
        ({"seed": 10**400}, "--seed must be 0 to 4294967295, got 1000"),
        ({"max_steps": -1}, "--max_steps must be 0 or more, got -1"),
        ({"max_steps": 2**31}, "--max_steps must be 0 to 2147483647, got 2147483648"),
        ({"warmup_steps": -5}, "--warmup_steps must be 0 or more, got -5"),
        ({"drop_factor": -1.0}, "--drop_factor must be 0 to 1, got -1.0"),
    ],
)
def test_bad_settings(changed, message) -> None:
    with pytest.raises(LatentStoreError, match=message):
        make_config(**changed)
