"""The gate: order of logits, straight-through gradient, decisions without noise, its input."""

import numpy as np
import pytest
import torch

import latent_store
from latent_store.errors import LatentStoreError
from tests.conftest import TinyStore
from training.selection.gate import (
    ChannelGate,
    annealed,
    gumbel_noise,
    parse_gate_bias,
    pool_latents,
)

CHANNELS = 24


def make_gate(bias: str = "neutral", seed: int = 0) -> ChannelGate:
    torch.manual_seed(seed)
    return ChannelGate(CHANNELS, bias=bias)


def pooled(batch: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(batch, CHANNELS))).float()


def test_the_first_c_logits_mean_off_and_the_last_c_on() -> None:
    gate = make_gate().eval()
    with torch.no_grad():
        gate.logits.weight.zero_()
        # The grouped convolution holds (off, on) pairs: channel 5 is told to be on, 7 to be off.
        gate.logits.bias.zero_()
        gate.logits.bias[2 * 5 + 1] = 3.0
        gate.logits.bias[2 * 7] = 3.0
    logits_B2C = gate.paper_logits(pooled())
    flat = logits_B2C.flatten(1)
    assert flat[0, CHANNELS + 5] == 3
    assert flat[0, 7] == 3
    decisions, probability = gate(pooled())
    assert decisions[0, 5] == 1
    assert decisions[0, 7] == 0
    assert probability[0, 5] > 0.9 > 0.1 > probability[0, 7]


def test_a_channels_logits_come_from_its_own_hidden_unit() -> None:
    gate = make_gate().eval()
    hidden_BC = torch.zeros(1, CHANNELS)
    gate.norm = torch.nn.Identity()
    gate.hidden = torch.nn.Identity()
    for channel in (0, 5, CHANNELS - 1):
        hidden_BC = torch.zeros(1, CHANNELS)
        hidden_BC[0, channel] = 1
        moved = gate.paper_logits(hidden_BC) != gate.paper_logits(torch.zeros(1, CHANNELS))
        assert moved[0].any(0).nonzero().flatten().tolist() == [channel]


def test_training_samples_hard_gates_with_the_soft_samples_gradient() -> None:
    gate = make_gate()
    noise_BC2 = gumbel_noise(0, 0, [4, 5, 6], CHANNELS)
    decisions, _ = gate(pooled(), noise_BC2)
    assert set(decisions.unique().tolist()) <= {0.0, 1.0}
    weights = torch.arange(1.0, CHANNELS + 1)
    (decisions * weights).sum().backward()
    straight = gate.logits.bias.grad.clone()
    gate.zero_grad()
    noisy_B2C = gate.paper_logits(pooled()) + noise_BC2.transpose(1, 2)
    (noisy_B2C.softmax(1)[:, 1] * weights).sum().backward()
    torch.testing.assert_close(straight, gate.logits.bias.grad)
    assert straight.abs().min() > 0


def test_evaluation_takes_the_argmax_and_ignores_noise() -> None:
    gate = make_gate().eval()
    logits_B2C = gate.paper_logits(pooled())
    decisions, probability = gate(pooled(), gumbel_noise(0, 0, [1, 2, 3], CHANNELS))
    assert torch.equal(decisions, (logits_B2C[:, 1] > logits_B2C[:, 0]).float())
    assert torch.equal(decisions, (probability > 0.5).float())
    assert torch.equal(decisions, gate(pooled()).gate_BC)


def test_training_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pass noise_BC2 \(gumbel_noise"):
        make_gate()(pooled())


def test_one_image_decides_the_same_alone_and_in_a_batch_of_any_mode() -> None:
    gate = make_gate()
    noise_BC2 = gumbel_noise(0, 0, [1, 2, 3], CHANNELS)
    for training in (True, False):
        gate.train(training)
        together = gate(pooled(), noise_BC2)
        alone = gate(pooled()[1:2], noise_BC2[1:2])
        assert torch.equal(together.gate_BC[1:2], alone.gate_BC)
        torch.testing.assert_close(together.probability_BC[1:2], alone.probability_BC)


def test_the_gate_depends_on_loud_and_on_quiet_channels() -> None:
    generator = np.random.default_rng(1)
    scale = np.where(np.arange(CHANNELS) < 3, 40.0, 0.4)
    values = torch.from_numpy(scale * (1 + 0.5 * generator.normal(size=(200, CHANNELS)))).float()
    gate = make_gate(seed=3)
    quiet = values.clone()
    quiet[:, 10] += 0.6  # three standard deviations of a quiet channel

    @torch.no_grad()
    def effect() -> float:
        return float((gate.paper_logits(quiet) - gate.paper_logits(values)).abs().mean())

    before = effect()
    gate.set_input_statistics(values.mean(0), values.std(0))
    assert effect() > 5 * before


def test_silent_channels_do_not_explode() -> None:
    gate = make_gate()
    gate.set_input_statistics(torch.zeros(CHANNELS), torch.zeros(CHANNELS))
    assert torch.isfinite(gate.paper_logits(torch.full((1, CHANNELS), 1e6))).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("neutral", (0.0, 0.0)), ("dctnet", (0.1, 2.0)), ("0.5", (0.0, 0.5)), ("-1", (0.0, -1.0))],
)
def test_initial_bias(text: str, expected: tuple[float, float]) -> None:
    assert parse_gate_bias(text) == expected
    bias = make_gate(text).logits.bias
    assert bias[::2].unique().tolist() == pytest.approx([expected[0]])
    assert bias[1::2].unique().tolist() == pytest.approx([expected[1]])


def test_dctnets_bias_starts_with_nearly_everything_on() -> None:
    decisions, probability = make_gate("dctnet").eval()(pooled(64))
    assert decisions.mean() > 0.99
    assert float(probability.detach().mean()) == pytest.approx(0.87, abs=0.02)


def test_an_unknown_bias_is_named() -> None:
    with pytest.raises(LatentStoreError, match="neutral, dctnet or a number, got 'high'"):
        parse_gate_bias("high")


def test_noise_depends_on_seed_epoch_and_row_only() -> None:
    noise = gumbel_noise(3, 2, [7, 8], 5)
    assert noise.shape == (2, 5, 2)
    assert torch.equal(noise[1:], gumbel_noise(3, 2, [8], 5))
    for other in ((4, 2, [7]), (3, 1, [7]), (3, 2, [8])):
        assert not torch.equal(noise[:1], gumbel_noise(*other, 5))


def test_noise_is_gumbel() -> None:
    values = gumbel_noise(0, 0, range(200), 50)
    assert float(values.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(values.var()) == pytest.approx(np.pi**2 / 6, rel=0.05)


def test_low_temperature_sharpens_the_gradient_but_not_the_decision() -> None:
    noise_BC2 = gumbel_noise(0, 0, [1, 2, 3], CHANNELS)
    gate = make_gate()
    warm = gate(pooled(), noise_BC2).gate_BC
    gate.temperature.fill_(0.1)
    assert torch.equal(warm, gate(pooled(), noise_BC2).gate_BC)


def test_annealing_is_linear_and_stays_within_its_ends() -> None:
    assert [annealed(2.0, 1.0, p) for p in (-1, 0, 0.5, 1, 2)] == [2.0, 2.0, 1.5, 1.0, 1.0]


def test_pooling_is_over_the_whole_coded_grid() -> None:
    y_hat_BCHW = torch.zeros(1, 2, 4, 4, dtype=torch.int16)
    y_hat_BCHW[..., :2, :2] = torch.tensor([3, -4]).view(1, 2, 1, 1).to(torch.int16)
    torch.testing.assert_close(pool_latents(y_hat_BCHW, "mean"), torch.tensor([[0.75, -1.0]]))
    torch.testing.assert_close(pool_latents(y_hat_BCHW, "rms"), torch.tensor([[1.5, 2.0]]))


def test_pooling_equals_the_stores_columns(tiny_store: TinyStore) -> None:
    latents = latent_store.open(tiny_store.url)["cityscapes/train"].latents()
    y_hat_BCHW = torch.from_numpy(latents.read(latents.rows))
    for kind in ("mean", "rms"):
        stored_BC = torch.from_numpy(latents.column(f"channel_{kind}", latents.rows))
        torch.testing.assert_close(pool_latents(y_hat_BCHW, kind), stored_BC)
