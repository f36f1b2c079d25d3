"""The transforms: shapes, and that integer latents train them."""

import pytest
import torch

from latent_store.errors import LatentStoreError
from training.networks.transforms import ModuleDeconv, build_transform

FEATURES = 64
KINDS = [("deconv", "igdn"), ("deconv", "relu"), ("res", "igdn")]


@pytest.mark.parametrize(("name", "activation"), KINDS)
@pytest.mark.parametrize("channels", [1, 16, 192])
def test_latents_at_a_sixteenth_become_features_at_a_quarter(name, activation, channels) -> None:
    transform = build_transform(name, channels, FEATURES, activation=activation)
    assert transform(torch.zeros(2, channels, 3, 5)).shape == (2, FEATURES, 12, 20)


@pytest.mark.parametrize(("name", "activation"), KINDS)
def test_a_few_steps_on_integer_latents_reduce_the_distillation_error(name, activation) -> None:
    torch.manual_seed(0)
    transform = build_transform(name, 16, FEATURES, activation=activation)
    y_hat_BCHW = (torch.randn(4, 16, 4, 4) * torch.linspace(0.2, 3, 16).view(-1, 1, 1)).round()
    y_hat_BCHW[0, 3, 1, 1] = 32  # as large as latents were seen
    scaled_BCHW = y_hat_BCHW / (y_hat_BCHW.square().mean((0, 2, 3), keepdim=True).sqrt() + 0.5)
    mixing = torch.randn(FEATURES, 16) / 4
    target_BCHW = torch.einsum("fc,bchw->bfhw", mixing, scaled_BCHW)
    target_BCHW = torch.nn.functional.interpolate(target_BCHW, scale_factor=4).relu()
    optimizer = torch.optim.Adam(transform.parameters(), lr=1e-3)
    errors = []
    for _ in range(12):
        error = (transform(scaled_BCHW) - target_BCHW).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]


def test_first_outputs_are_of_order_one() -> None:
    torch.manual_seed(0)
    features_BCHW = ModuleDeconv(192, FEATURES)(torch.randn(2, 192, 8, 8))
    assert 0.5 < features_BCHW.std().item() < 2


def test_unknown_names_are_refused() -> None:
    with pytest.raises(LatentStoreError, match="--transform must be one of deconv, res"):
        build_transform("linear", 192, FEATURES)
    with pytest.raises(LatentStoreError, match="igdn or relu, got 'deconv' with 'gdn'"):
        build_transform("deconv", 192, FEATURES, activation="gdn")
