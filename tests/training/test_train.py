"""`train-from-store` on a small real store: every kind of network, kill and resume, refusals."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import latent_store
from latent_store.catalogue.codecs import register_teacher
from latent_store.codec import codec_from_store
from latent_store.components.features import FeaturesReader
from latent_store.format.feature_encoding import FeatureEncoding
from latent_store.storage.location import Location
from tests.conftest import RANKING, TinyStore
from tests.training.real_networks import make_checkpoint
from training import train
from training.tasks.classes import CITYSCAPES_CLASSES
from training.trainer.checkpoints import load_network

FLAGS = """
    accumulate amp anchor_size aspp_width auxiliary_head backbone batch_size box_head_width
    cache_mb checkpoint_epochs checkpoint_minutes chunk_rows clip_norm codec compile crop cuts
    dataset deterministic device distil_steps domain drop_at drop_factor dropout entry epochs
    fit_images fpn_width freeze_batch_norm gate_bias gate_pool help hold_out init init_from keep
    label lambda_kd learning_rate log_steps mask max_samples max_steps output preload_rows
    preset pretrained rate_weight resume safetensors seed selection split storage_options store task
    teacher temperature temperature_end tensorboard transform transform_activation transform_init
    transform_rate val_max_samples val_split validate_epochs version views warmup_steps worker_kind
    workers
"""

SMALL = """
    --init scratch --aspp_width 8 --backbone mobilenet_v2 --batch_size 2 --crop 32 --max_steps 2
    --transform_init fresh --workers 1 --no-tensorboard --device cpu --val_split none
"""


def arguments(store: TinyStore, output: Path, *more: object) -> list[str]:
    return ["--store", str(store.url), "--output", str(output), *SMALL.split(), *map(str, more)]


def records(output: Path, kind: str) -> list[dict]:
    lines = (output / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_flags_are_public_and_frozen() -> None:
    """Adding a flag is welcome: add it here too. Renaming or removing one breaks scripts."""
    actions = train.make_arguments()._actions
    names = {option for action in actions for option in action.option_strings}
    long = {name.removeprefix("--") for name in names if not name.startswith(("--no-", "-h"))}
    assert sorted(long) == sorted(FLAGS.split())
    assert all(action.help for action in actions)


def test_the_papers_settings_are_the_defaults() -> None:
    args = train.make_arguments().parse_args(["--store", "s", "--output", "o"])
    assert (args.epochs, args.learning_rate, args.lambda_kd, args.rate_weight) == (400, 1e-3, 1, 0)
    assert args.epochs * args.drop_at == 300
    assert args.learning_rate * args.drop_factor == pytest.approx(1e-4)
    assert (args.transform, args.gate_bias, args.temperature) == ("deconv", "neutral", 1)


@pytest.mark.parametrize(
    ("more", "label"),
    [
        (["--selection", "none"], "no gate"),
        (["--selection", "dynamic", "--rate_weight", "0.5"], "dynamic (rate-aware)"),
        (["--selection", "static", "--mask", RANKING, "--keep", "20"], f"static-20 ({RANKING})"),
        (["--transform", "res", "--lambda_kd", "0"], "no gate res"),
        (["--domain", "pixel"], "pixel (trained on decoded)"),
    ],
    ids=["none", "dynamic", "static", "res", "pixel"],
)
def test_every_kind_of_network_trains(
    tiny_store: TinyStore, tmp_path: Path, more: list[str], label: str
) -> None:
    assert train.main(arguments(tiny_store, tmp_path / "run", *more)) == 0
    loaded = load_network(tmp_path / "run/last.pt")
    store = latent_store.open(tiny_store.url)
    spec = store.codec()
    assert loaded.meta["label"] == label
    assert loaded.meta["dataset"] == "cityscapes"
    assert loaded.meta["codec_id"] == spec.codec_id
    assert loaded.meta["codec_identity"] == spec.identity
    assert loaded.meta["class_names"] == list(CITYSCAPES_CLASSES)
    assert loaded.meta["train"]["learning_rate"] == 1e-3
    assert loaded.codec_bytes == store.codec_checkpoint(spec.codec_id)
    static = "--mask" in more
    channels = store.ranking(spec.codec_id, RANKING).channels(20) if static else None
    assert loaded.config.channels == channels
    assert loaded.meta["channels"] == (list(channels) if static else None)
    (epoch,) = records(tmp_path / "run", "epoch")
    assert ("distillation" in epoch) == (label not in ("pixel (trained on decoded)", "no gate res"))
    assert ("kept_mean" in epoch) == ("dynamic" in label)
    # It starts from scratch: without features there is nothing of a teacher in it.
    assert (loaded.meta["teacher_id"] is None) == ("distillation" not in epoch)


def test_it_starts_from_the_teacher_and_takes_its_shape(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    more = ["--store", tiny_store.url, "--output", tmp_path / "run", "--crop", 32, "--workers", 0]
    more += ["--batch_size", 2, "--max_steps", 1, "--learning_rate", 1e-12, "--no-tensorboard"]
    assert train.main([str(word) for word in more]) == 0
    loaded, teacher = load_network(tmp_path / "run/last.pt"), load_network(tiny_store.teacher)
    assert loaded.config.backbone == teacher.config.backbone
    assert loaded.config.aspp_width == teacher.config.aspp_width
    assert loaded.meta["teacher_id"] == teacher.teacher_id
    (name, *_) = (n for n, p in teacher.network.tail.named_parameters() if p.ndim == 4)
    weight = loaded.network.tail.get_parameter(name)
    torch.testing.assert_close(weight, teacher.network.tail.get_parameter(name))
    (validation,) = records(tmp_path / "run", "validation")  # the store has val: it is used
    assert 0 <= validation["miou"] <= 1


def test_a_network_continues_another_one(tiny_store: TinyStore, tmp_path: Path) -> None:
    dynamic = arguments(tiny_store, tmp_path / "dynamic", "--selection", "dynamic")
    assert train.main(dynamic) == 0
    more = ["--selection", "static", "--mask", RANKING, "--keep", 16]
    more += ["--init_from", tmp_path / "dynamic/last.pt", "--learning_rate", 1e-12]
    assert train.main(arguments(tiny_store, tmp_path / "static", *more)) == 0
    source = load_network(tmp_path / "dynamic/last.pt").network
    loaded = load_network(tmp_path / "static/last.pt")
    torch.testing.assert_close(
        loaded.network.transform.up1.weight,
        source.transform.up1.weight[list(loaded.config.channels)],
    )
    assert loaded.meta["label"] == f"static-16 ({RANKING}) fine-tuned"


def test_a_static_network_reads_only_its_chunks(
    tiny_store: TinyStore, tmp_path: Path, monkeypatch
) -> None:
    from latent_store.components.latents import LatentsReader

    def refuse(*_: object) -> None:
        raise AssertionError("a static network must not read the natural-order latents")

    monkeypatch.setattr(LatentsReader, "read", refuse)
    more = ["--selection", "static", "--mask", RANKING, "--keep", 16, "--workers", 0]
    assert train.main(arguments(tiny_store, tmp_path / "run", *more)) == 0


# Six steps are saved; the next epoch has seven to nine.
def test_where_no_run_is_resume_says_so_first(
    tiny_store: TinyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    words = arguments(tiny_store, tmp_path / "typo", "--resume", "--split", "nowhere")
    assert train.main(words) == 2
    said = f"{tmp_path / 'typo'} holds no run to go on with: --resume begins one"
    assert caplog.messages[0] == said


KILLED = """
import os, signal, sys
from training import train
from training.trainer.run_log import RunLog

write = RunLog.write

def write_and_die(self, kind, step, *others):
    write(self, kind, step, *others)
    if (kind, step) == ("step", 8):
        os.kill(os.getpid(), signal.SIGKILL)

RunLog.write = write_and_die
sys.exit(train.main(sys.argv[1:]))
"""


def test_killed_and_resumed_it_ends_as_if_undisturbed(
    tiny_store: TinyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = ["--selection", "dynamic", "--max_steps", 12, "--checkpoint_epochs", 2, "--log_steps", 1]
    assert train.main(arguments(tiny_store, tmp_path / "whole", *more)) == 0
    parted = tmp_path / "parted"
    command = [sys.executable, "-c", KILLED, *arguments(tiny_store, parted, *more)]
    killed = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (parted / "resume.pt").exists()
    assert not (parted / "last.safetensors").exists()
    assert train.main([*arguments(tiny_store, parted, *more), "--resume"]) == 0
    assert "holds no run" not in caplog.text
    assert (parted / "last.pt").read_bytes() == (tmp_path / "whole/last.pt").read_bytes()
    assert [r["loss"] for r in records(parted, "step")] == [
        r["loss"] for r in records(tmp_path / "whole", "step")
    ]


@pytest.mark.parametrize(
    ("number", "status", "told", "more"),
    [
        (signal.SIGTERM, 1, "stopped by SIGTERM after step", ["--worker_kind", "process"]),
        pytest.param(
            signal.SIGINT, 130, "stopped by Ctrl-C after step", [], marks=pytest.mark.slow
        ),
    ],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_signal_to_the_process_group_saves_and_names_what_goes_on(
    tiny_store: TinyStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
    status: int,
    told: str,
    more: list[str],
) -> None:
    run, log = tmp_path / "run", tmp_path / "run/log.jsonl"
    words = arguments(tiny_store, run, "--max_steps", 10_000, "--log_steps", 1, *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "training.train", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    (line,) = [line for line in errors.splitlines() if "error" in line]
    assert line.startswith(f"train-from-store: error: {told}")
    assert line.endswith(
        f"; everything is saved in {run}: go on with the same command and --resume"
    )
    assert errors.count("stopping after this step; ") == 1
    assert "Traceback" not in errors
    step = load_network(run / "last.pt").meta["step"]
    assert step >= 1
    # The same command starts nothing over what is there.
    assert train.main(words) == 2
    assert f"{run} holds a run already: go on with it with --resume" in capsys.readouterr().err
    assert len(records(run, "step")) == step


REFUSALS = {
    "static alone": (["--selection", "static"], "goes with --mask RANKING and --keep N"),
    "mask alone": (["--mask", RANKING, "--keep", "3"], "other selections with neither"),
    "rate": (
        ["--rate_weight", "1"],
        "weight goes with --selection dynamic, got --selection none",
    ),
    "temperature": (["--temperature", "0"], "--temperature must be above 0, got 0"),
    "gate's input without a gate": (
        ["--gate_pool", "rms"],
        "--gate_pool goes with --selection dynamic, got --selection none",
    ),
    "annealing without a gate": (
        ["--temperature_end", "0.1", "--selection", "any", "--mask", RANKING],
        "--temperature_end goes with --selection dynamic, got --selection any",
    ),
    "transform of pixels": (
        ["--domain", "pixel", "--transform", "res"],
        "--transform is for networks on latents: leave it out with --domain pixel",
    ),
    "transform's rate, of pixels": (
        ["--domain", "pixel", "--transform_rate", "0.5"],
        "--transform_rate is for networks on latents",
    ),
    "activation of blocks": (
        ["--transform", "res", "--transform_activation", "relu"],
        "--transform_activation is between the layers of --transform deconv: leave it out with res",
    ),
    "dropout of boxes": (
        ["--task", "detection", "--aspp_width", "8", "--dropout", "0.5"],
        "is a setting of segmentation, the task is detection: leave it out",
    ),
    "two starts": (
        ["--pretrained", "imagenet", "--init_from", "a.pt"],
        "--pretrained goes with --init scratch, and without --init_from",
    ),
    "features of another layer": (
        ["--entry", "layer1"],
        r"of teacher (\S+)\.layer1, it has: \1; name one with --entry, or .* --entry layer1",
    ),
    "bias": (["--selection", "dynamic", "--gate_bias", "x"], "neutral, dctnet or a number"),
    "batch of one": (["--batch_size", "1"], "--batch_size 1 cannot train batch norm behind ASPP"),
    "batch": (["--batch_size", "9"], "--batch_size 9 is larger than cityscapes/train, which has 6"),
    "crop": (["--crop", "40"], "--crop must be a multiple of 16 pixels"),
    "split": (["--split", "test"], "has no split cityscapes/test .it has: cityscapes/train"),
    "dataset": (["--dataset", "voc"], "has no split voc/train"),
    "val split": (["--val_split", "test"], "give another --val_split, or --val_split none"),
    "codec": (["--codec", "bmshj"], "there is no codec bmshj; give --codec with one of"),
    "ranking": (
        ["--selection", "static", "--mask", "gate", "--keep", "16"],
        f"has no ranking 'gate' .it has: {RANKING}.; derive it with channel-frequency",
    ),
    "keep": (
        ["--selection", "static", "--mask", RANKING, "--keep", "193"],
        "--keep 193 is out of range: the ranking variance orders 192 channels",
    ),
    "teacher": (["--teacher", "someone"], "asked for: someone; name one with --teacher"),
    "no teacher, distilled": (["--teacher", "none"], "or train without them: --teacher none --lam"),
    "no teacher at all": (
        ["--teacher", "none", "--init", "teacher"],
        "or train without them: --teacher none --lambda_kd 0 --init scratch",
    ),
    "no teacher, started": (
        ["--teacher", "none", "--lambda_kd", "0", "--init", "teacher"],
        "--init teacher starts the tail from a teacher, .* or give --init scratch",
    ),
    "features of another backbone": (
        ["--backbone", "resnet34"],
        r"teacher deeplabv3-mobilenet_v2-\w+ have 24 channels, resnet34 has 64 at entry stem: give",
    ),
    "teacher's backbone": (
        ["--init", "teacher", "--backbone", "resnet34", "--lambda_kd", "0"],
        "its backbone is mobilenet_v2, the network's resnet34; give --backbone mobilenet_v2",
    ),
    "pretrained": (["--init", "teacher", "--pretrained", "imagenet"], "goes with --init scratch"),
    "pretrained file": (["--pretrained", "nothing.pth"], "no checkpoint file at nothing.pth"),
    "init_from": (["--init_from", "nothing.pt"], "no checkpoint file at nothing.pt"),
    "device": (["--device", "tpu9"], "--device must be auto, cpu or cuda"),
    "device of torch's": (["--device", "mps"], "--device must be auto, cpu or cuda"),
    "annealing": (["--temperature_end", "-1"], "--temperature_end must be above 0, got -1"),
    "width": (["--aspp_width", "0"], "--aspp_width must be 1 to 8192, got 0"),
    "dropout": (["--dropout", "1.5"], "--dropout must be 0 to 1, got 1.5"),
    "seed": (["--seed", "100000000000000000000"], "--seed must be 0 to 4294967295, got 1000"),
    "bias of nothing": (["--selection", "dynamic", "--gate_bias", "nan"], "dctnet or a number"),
    "number": (["--epochs", "many"], "--epochs must be a whole number, got 'many'"),
    "steps": (["--max_steps", "-1"], "--max_steps must be 0 or more, got -1"),
    "samples": (["--max_samples", "-1"], "--max_samples must be 0 or more, got -1"),
    "val samples": (["--val_max_samples", "-1"], "--val_max_samples must be 0 or more, got -1"),
    "label": (["--label", "two\nlines"], "--label must be one line"),
    "workers": (["--workers", "-1"], "--workers must be 0 to 1024, got -1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(tiny_store: TinyStore, tmp_path: Path, fails, case: str) -> None:
    more, message = REFUSALS[case]
    line = fails(train.main, arguments(tiny_store, tmp_path / "run", *more))
    assert line.startswith("train-from-store: error: ")
    assert re.search(message, line), line
    assert not (tmp_path / "run/last.pt").exists()


def test_features_whose_sign_was_lost_are_refused(
    tiny_store: TinyStore, tmp_path: Path, fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a version stored them that took every teacher's features to be behind a ReLU."""
    monkeypatch.setattr(FeaturesReader, "encoding", FeatureEncoding())
    line = fails(train.main, arguments(tiny_store, tmp_path / "run"))
    assert "are stored as uint8, without the sign that those of mobilenet_v2 have: encode" in line


def test_a_missing_store(tmp_path: Path, fails) -> None:
    line = fails(train.main, ["--store", str(tmp_path / "no.zarr"), "--output", str(tmp_path)])
    assert "no.zarr" in line


def test_a_checkpoint_of_another_architecture(tiny_store: TinyStore, tmp_path: Path, fails) -> None:
    more = ["--init_from", tiny_store.teacher]
    line = fails(train.main, arguments(tiny_store, tmp_path / "run", *more))
    assert "--init_from holds a network with domain pixel, this one has latent" in line


def test_a_teacher_or_network_of_other_classes(
    copied_store: TinyStore, tmp_path: Path, fails
) -> None:
    codec = codec_from_store(latent_store.open(copied_store.url))
    (teacher,) = copied_store.url.glob(".latent_store/teachers/*.pt")
    teacher.unlink()
    other = make_checkpoint(tmp_path / "t.pt", None, kind="teacher", domain="pixel", num_classes=11)
    content = Path(other).read_bytes()
    name = f"other-{hashlib.sha256(content).hexdigest()[:8]}"
    register_teacher(Location(copied_store.url), name, content)
    more = ["--init", "teacher", "--lambda_kd", 0, "--backbone", "resnet18"]
    line = fails(train.main, arguments(copied_store, tmp_path / "run", *more))
    assert "its num_classes is 11, the network's 19; use one that was trained on this" in line
    network = make_checkpoint(tmp_path / "n.pt", codec, num_classes=11)
    more = ["--init_from", network, "--lambda_kd", 0, "--backbone", "resnet18"]
    line = fails(train.main, arguments(copied_store, tmp_path / "run", *more))
    assert "with num_classes 11, this one has 19: give a checkpoint on the same classes" in line


def test_an_existing_output_and_a_changed_configuration(
    tiny_store: TinyStore, tmp_path: Path, fails
) -> None:
    args = arguments(tiny_store, tmp_path / "run")
    assert train.main(args) == 0
    assert "holds a run already: go on with it with --resume" in fails(train.main, args)
    changed = [*args, "--resume", "--transform_activation", "relu"]
    line = fails(train.main, changed)
    assert "another --transform_activation: the run has 'igdn', now it is 'relu'" in line
    assert train.main([*args, "--resume", "--workers", "0", "--log_steps", "3"]) == 0


def test_a_run_never_begins_over_an_older_log(
    tiny_store: TinyStore, tmp_path: Path, fails, caplog
) -> None:
    args = arguments(tiny_store, tmp_path, "--log_steps", 1)
    log, older = tmp_path / "log.jsonl", '{"kind": "step", "step": 700, "epoch": 3}\n'
    log.write_text(older)
    told = f"{tmp_path} has log.jsonl of a run, and nothing to go on from: give another --output"
    assert told in fails(train.main, args)
    assert log.read_text() == older
    log.unlink()
    (tmp_path / "last.pt").write_bytes(b"a network")
    assert f"{tmp_path} has last.pt of a run, and nothing" in fails(train.main, args)
    assert (tmp_path / "last.pt").read_bytes() == b"a network"
    log.write_text(older)
    assert train.main([*args, "--resume"]) == 0
    assert f"begins at step 0, older log: {tmp_path / 'log.1.jsonl'}" in caplog.text
    assert (tmp_path / "log.1.jsonl").read_text() == older
    assert [record["step"] for record in records(tmp_path, "step")] == [1, 2]


def test_a_configuration_alone_is_no_run(tiny_store: TinyStore, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert train.main(arguments(tiny_store, tmp_path)) == 0
    assert json.loads((tmp_path / "config.json").read_text())["max_steps"] == 2


def test_features_that_are_not_there_yet(copied_store: TinyStore, tmp_path: Path, fails) -> None:
    shutil.rmtree(copied_store.url / ".latent_store/teachers")
    line = fails(train.main, arguments(copied_store, tmp_path / "run"))
    assert "--lambda_kd 1 distils teacher features, and cityscapes/train of" in line
    assert "add them with encode-to-store --teacher_checkpoint FILE" in line
    assert "--teacher none --lambda_kd 0" in line
    without = arguments(copied_store, tmp_path / "run", "--teacher", "none", "--lambda_kd", "0")
    assert train.main(without) == 0


def test_latents_that_were_not_reordered(copied_store: TinyStore, tmp_path: Path, fails) -> None:
    shutil.rmtree(copied_store.url / "cityscapes/train/ranked")
    more = ["--selection", "static", "--mask", RANKING, "--keep", 16]
    line = fails(train.main, arguments(copied_store, tmp_path / "run", *more))
    assert f"run reorder-latents --ranking {RANKING}" in line


def test_what_validation_lacks_is_told_before_a_start_is_made(
    copied_store: TinyStore, tmp_path: Path, fails, caplog
) -> None:
    shutil.rmtree(copied_store.url / "cityscapes/val/ranked")
    more = ["--selection", "any", "--mask", RANKING, "--val_split", "val"]
    more += ["--transform_init", "computed"]
    line = fails(train.main, arguments(copied_store, tmp_path / "run", *more))
    assert line.endswith(f"run reorder-latents --ranking {RANKING} on cityscapes/val")
    assert "computed start" not in caplog.text


def test_an_incomplete_store(copied_store: TinyStore, tmp_path: Path, fails) -> None:
    codec_id = latent_store.open(copied_store.url).codec().codec_id
    path = copied_store.url / f"cityscapes/train/latents/{codec_id}/zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"]["complete"] = False
    path.write_text(json.dumps(metadata))
    line = fails(train.main, arguments(copied_store, tmp_path / "run"))
    assert "is incomplete; run encode-to-store" in line


def test_nothing_in_this_room_knows_the_pipelines() -> None:
    for path in Path(train.__file__).parent.rglob("*.py"):
        assert "import pipelines" not in path.read_text()
        assert "from pipelines" not in path.read_text()
