"""The transform's start: computed from the codec and the teacher's features, and distilled."""

import itertools
import json
from pathlib import Path

import pytest
import torch

import latent_store
from latent_store.batches.source import CropRule
from latent_store.codec import Codec, codec_from_store
from latent_store.codec.stock import ScaleHyperprior
from pipelines import encode
from tests.conftest import TinyStore, encode_args
from tests.training.test_train import SMALL
from training import train
from training.data.loader import CropLoader
from training.data.loader_config import LoaderConfig
from training.data.store_source import StoreSource
from training.networks.network_config import NetworkConfig
from training.networks.networks import LatentNetwork
from training.networks.transforms import HIDDEN_CHANNELS
from training.tasks.losses import cell_mask, distillation
from training.tasks.registry import build_network
from training.trainer import assembly, computed_start, initialise
from training.trainer.assembly import find_inputs
from training.trainer.checkpoints import load_network
from training.trainer.job import DataConfig, Job, ModelConfig, TrainerConfig
from training.trainer.trainer import SETTLING_BATCHES

SHAPE = {"backbone": "mobilenet_v2", "aspp_width": 8}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec(tiny_store: TinyStore) -> Codec:
    return codec_from_store(latent_store.open(tiny_store.url))


def make_job(store: TinyStore, output: Path, **model: object) -> Job:
    return Job(
        data=DataConfig(store=str(store.url)),
        model=ModelConfig(init="scratch", **SHAPE, **model),
        loader=LoaderConfig(batch_size=2, crop=32, workers=0),
        trainer=TrainerConfig(device="cpu"),
        output=output,
    )


def make_network(job: Job) -> tuple[LatentNetwork, StoreSource]:
    inputs = find_inputs(job)
    torch.manual_seed(0)
    network = build_network(assembly.network_config(job, inputs))
    source = StoreSource(assembly.source_spec(job, inputs, job.data.split))
    initialise.set_statistics(network, source)
    return network, source


def feature_error(network: LatentNetwork, source: StoreSource) -> float:
    """Returns the mean squared error of the features inside the training images."""
    loader = CropLoader(source, LoaderConfig(batch_size=2, crop=0, workers=0), seed=0)
    errors = []
    with torch.no_grad():
        for batch in loader:
            features_BCHW = network.transformed(batch["y_hat_BCHW"].float())["features"]
            errors.append(distillation(features_BCHW, batch, int(cell_mask(batch).sum())))
    loader.close()
    return float(torch.stack(errors).mean())


STATIC = {"selection": "static", "mask": "variance"}


@pytest.mark.parametrize("model", [{}, {**STATIC, "keep": 1}, {"transform_activation": "relu"}])
def test_a_computed_start_explains_features_that_fresh_weights_do_not(
    tiny_store: TinyStore, codec: Codec, tmp_path: Path, model: dict
) -> None:
    network, source = make_network(make_job(tiny_store, tmp_path, **model))
    fresh = feature_error(network, source)
    r_squared = computed_start.compute_start(network, source, codec)
    assert 0 < r_squared <= 1
    assert feature_error(network, source) < fresh


@pytest.mark.parametrize("entry", ["layer1", "layer2"])
def test_a_transform_imitates_a_later_layer_and_the_network_goes_on_behind_it(
    copied_store: TinyStore, codec: Codec, tmp_path: Path, entry: str
) -> None:
    assert encode.main(encode_args(copied_store, "train", "--entry", entry)) == 0
    network, source = make_network(make_job(copied_store, tmp_path, entry=entry))
    (arrays,) = source.load([(0,)], CropRule(seed=0, crop=0), 0)
    height, width = 128, 192  # coded
    stride = {"layer1": 4, "layer2": 8}[entry]
    assert arrays["features_BCHW"].shape[2:] == (height // stride, width // stride)
    fresh = feature_error(network, source)
    assert 0 < computed_start.compute_start(network, source, codec) <= 1
    assert feature_error(network, source) < fresh
    stages = [name for name, _ in network.tail.named_children() if name.startswith("layer")]
    assert (
        stages == {"layer1": ["layer2", "layer3", "layer4"], "layer2": ["layer3", "layer4"]}[entry]
    )
    logits_BKHW = network.eval()(torch.zeros(1, codec.spec.channels, 8, 12))["logits"]
    assert logits_BKHW.shape[2:] == (height, width)


def test_the_first_layer_is_that_of_the_synthesis(
    tiny_store: TinyStore, codec: Codec, tmp_path: Path
) -> None:
    network, _ = make_network(make_job(tiny_store, tmp_path))
    computed_start.start_from_synthesis(network, codec.model.g_s)
    y_hat_BCHW = torch.randint(-3, 4, (1, codec.spec.channels, 4, 4)).float()
    with torch.no_grad():
        wanted_BCHW = codec.model.g_s[1](codec.model.g_s[0](y_hat_BCHW))
        hidden_BCHW = network.transform.hidden(network.scaled(y_hat_BCHW))
    half = wanted_BCHW.shape[1]
    torch.testing.assert_close(hidden_BCHW[:, :half], wanted_BCHW, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("synthesis_channels", [16, 320])
@pytest.mark.parametrize("activation", ["igdn", "relu"])
@torch.no_grad()
def test_a_synthesis_may_have_few_channels_or_more_than_the_transform(
    tiny_store: TinyStore, tmp_path: Path, synthesis_channels: int, activation: str
) -> None:
    job = make_job(tiny_store, tmp_path, transform_activation=activation)
    network, _ = make_network(job)
    synthesis = ScaleHyperprior(synthesis_channels, network.config.latent_channels).g_s
    synthesis[1].gamma.normal_().abs_()
    up1, fresh = network.transform.up1, network.transform.up1.weight.clone()
    computed_start.start_from_synthesis(network, synthesis)
    y_hat_BCHW = torch.randint(-3, 4, (1, network.config.latent_channels, 4, 4)).float()
    layer_BCHW = synthesis[0](y_hat_BCHW)
    found_BCHW = up1(network.scaled(y_hat_BCHW))
    copied = min(synthesis_channels, HIDDEN_CHANNELS)
    torch.testing.assert_close(found_BCHW[:, :copied], layer_BCHW[:, :copied], atol=1e-3, rtol=1e-3)
    again = min(copied, HIDDEN_CHANNELS - copied)
    sign = 1 if activation == "igdn" else -1
    torch.testing.assert_close(
        found_BCHW[:, copied : copied + again],
        sign * layer_BCHW[:, :again],
        atol=1e-3,
        rtol=1e-3,
    )
    assert torch.equal(up1.weight[:, copied + again :], fresh[:, copied + again :])
    if activation == "igdn":
        gamma = network.transform.activation.gamma
        assert torch.equal(gamma[:copied, :copied], synthesis[1].gamma[:copied, :copied])


@pytest.mark.parametrize("activation", ["igdn", "relu"])
@torch.no_grad()
def test_hidden_channels_are_of_one_size_and_else_what_they_were(
    tiny_store: TinyStore, codec: Codec, tmp_path: Path, activation: str
) -> None:
    job = make_job(tiny_store, tmp_path, transform_activation=activation)
    network, _ = make_network(job)
    computed_start.start_from_synthesis(network, codec.model.g_s)
    scaled = [torch.randn(1, codec.spec.channels, 8, 8) for _ in range(3)]
    before = torch.cat([network.transform.hidden(x) for x in scaled])
    computed_start.size_hidden_channels(network.transform, scaled)
    hidden = torch.cat([network.transform.hidden(x) for x in scaled])
    sizes_C = hidden.square().mean((0, 2, 3)).sqrt()
    alive = before.square().mean((0, 2, 3)) > 0
    torch.testing.assert_close(sizes_C[alive], torch.ones(int(alive.sum())), rtol=1e-2, atol=1e-2)
    factors_C = before.square().mean((0, 2, 3)).sqrt()
    expected = before / factors_C.where(alive, 1.0)[:, None, None]
    torch.testing.assert_close(hidden, expected, rtol=2e-2, atol=1e-2)


def test_the_start_is_the_same_from_any_workers(tiny_store: TinyStore, tmp_path: Path) -> None:
    found = []
    for name, workers in (("none", 0), ("two", 2)):
        more = ["--transform_init", "distilled", "--distil_steps", 3, "--max_steps", 0]
        words = [*SMALL.split(), *more, "--workers", workers, "--output", tmp_path / name]
        assert train.main(["--store", str(tiny_store.url), *map(str, words)]) == 0
        found.append(load_network(tmp_path / name / "last.pt").network.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_distilling_lowers_the_error_and_leaves_the_tail(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    network, source = make_network(make_job(tiny_store, tmp_path))
    before = {name: value.clone() for name, value in network.tail.state_dict().items()}
    fresh = feature_error(network, source)
    loader = CropLoader(source, LoaderConfig(batch_size=2, crop=0, workers=0), seed=0)
    computed_start.distil(
        network, loader.stream(0, 0), steps=30, learning_rate=3e-4, seed=0, device=CPU
    )
    loader.close()
    assert feature_error(network, source) < fresh
    assert all(torch.equal(v, before[k]) for k, v in network.tail.state_dict().items())


def test_no_steps_save_the_network_as_it_starts(tiny_store: TinyStore, tmp_path: Path) -> None:
    words = [*SMALL.split(), "--transform_init", "computed", "--max_steps", "0", "--val_split"]
    words += ["val", "--output", str(tmp_path / "run")]
    assert train.main(["--store", str(tiny_store.url), *words]) == 0
    assert load_network(tmp_path / "run" / "last.pt").meta["step"] == 0
    records = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert [r["kind"] for r in records] == ["validation"]


def started(store: TinyStore, output: Path, *more: object) -> LatentNetwork:
    """Returns a network with a computed start, trained for as many steps as asked, or none."""
    words = [*SMALL.split(), "--transform_init", "computed", "--max_steps", 0, *more]
    words += ["--output", output]
    assert train.main(["--store", str(store.url), *map(str, words)]) == 0
    return load_network(output / "last.pt").network


def test_batch_norms_settle_on_what_a_computed_transform_gives(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    network = started(tiny_store, tmp_path / "run")
    settled = {name: value.clone() for name, value in network.tail.state_dict().items()}
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # torch's plain mean
    _, source = make_network(make_job(tiny_store, tmp_path))
    loader = CropLoader(source, LoaderConfig(batch_size=2, crop=32, workers=0), seed=0)
    with torch.no_grad():
        for batch in itertools.islice(loader.stream(0, 0), SETTLING_BATCHES):
            network(batch["y_hat_BCHW"].float())
    loader.close()
    for name, value in network.tail.state_dict().items():
        torch.testing.assert_close(settled[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_frozen_batch_norms_do_not_settle(tiny_store: TinyStore, tmp_path: Path) -> None:
    tail = started(tiny_store, tmp_path / "run", "--freeze_batch_norm").tail
    norms = [m for m in tail.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all((norm.running_mean == 0).all() for norm in norms)


def test_a_transform_with_a_start_learns_at_its_share_of_the_rate(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    def moved(*more: object) -> tuple[float, float]:
        network = started(tiny_store, tmp_path / "-".join(map(str, more)), "--max_steps", 1, *more)
        after = dict(network.named_parameters())
        changes = {
            name: (after[name] - value).detach().abs().max() for name, value in before.items()
        }
        own = [float(c) for name, c in changes.items() if name.startswith("transform.up")]
        others = [float(c) for name, c in changes.items() if name.startswith("tail.")]
        return max(own), max(others)

    before = dict(started(tiny_store, tmp_path / "none").named_parameters())
    # Adam's first step is as long as the rate; the codec's GDN keeps roots, where it is not.
    whole, other = moved("--transform_rate", 1)
    assert whole == pytest.approx(other, rel=0.05)
    assert moved()[0] == pytest.approx(0.1 * other, rel=0.05)
    assert moved("--transform_rate", 0.3)[0] == pytest.approx(0.3 * other, rel=0.05)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--domain", "pixel", "--transform_init", "computed"], "goes with --domain latent"),
        (["--lambda_kd", "0", "--transform_init", "distilled"], "--lambda_kd above 0"),
        (["--transform", "res", "--transform_init", "computed"], "is for --transform deconv"),
    ],
)
def test_a_start_that_cannot_be_is_refused(
    tiny_store: TinyStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    words: str,
) -> None:
    output = ["--output", str(tmp_path / "run")]
    assert train.main(["--store", str(tiny_store.url), *output, *SMALL.split(), *more]) == 2
    assert words in capsys.readouterr().err


def test_a_network_on_pixels_has_no_start_to_compute() -> None:
    assert not computed_start.can_be_computed(build_network(NetworkConfig(domain="pixel", **SHAPE)))
