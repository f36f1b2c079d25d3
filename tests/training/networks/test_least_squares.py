"""The last layer that fits best, held against one dense least-squares solve."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from latent_store.errors import LatentStoreError
from training.networks.least_squares import LastLayerFit

Layer = nn.Conv2d | nn.ConvTranspose2d


def make_layer(kind: str, inputs: int = 3, outputs: int = 2) -> Layer:
    if kind == "deconv":
        return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def run(layer: Layer, x_BCHW: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, nn.ConvTranspose2d):
        return F.conv_transpose2d(x_BCHW, weight, stride=2, padding=2, output_padding=1)
    return F.conv2d(x_BCHW, weight, padding=1)


def dense_solution(
    layer: Layer, x_BCHW: torch.Tensor, target_BFHW: torch.Tensor, valid_BHW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves for all weights and biases at once, one column an unknown."""
    units = torch.eye(layer.weight.numel()).double().unflatten(1, layer.weight.shape)
    columns = torch.stack([run(layer, x_BCHW, unit) for unit in units], dim=-1)
    rows = columns.permute(0, 2, 3, 1, 4)[valid_BHW]
    bias = torch.eye(layer.out_channels).double().expand(len(rows), -1, -1)
    system = torch.cat([rows, bias], dim=2).flatten(0, 1)
    wanted = target_BFHW.permute(0, 2, 3, 1)[valid_BHW].reshape(-1, 1)
    solution = torch.linalg.lstsq(system, wanted).solution[:, 0]
    weights, biases = solution.split([layer.weight.numel(), layer.out_channels])
    return weights.view(layer.weight.shape), biases


@pytest.mark.parametrize("kind", ["deconv", "conv"])
def test_it_is_the_dense_solution(kind: str) -> None:
    torch.manual_seed(0)
    layer, x_BCHW = make_layer(kind), torch.randn(2, 3, 6, 7).double()
    target_BFHW = torch.randn_like(run(layer, x_BCHW, layer.weight.double()))
    valid_BHW = torch.rand(2, *target_BFHW.shape[-2:]) > 0.2
    fit = LastLayerFit(layer, ridge=0)
    for image in range(2):  # one by one: only the sums matter
        part = slice(image, image + 1)
        fit.add(x_BCHW[part], target_BFHW[part], valid_BHW[part])
    weight, bias = fit.solve()
    dense_weight, dense_bias = dense_solution(layer, x_BCHW, target_BFHW, valid_BHW)
    torch.testing.assert_close(weight.double(), dense_weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(bias.double(), dense_bias, atol=1e-6, rtol=0)
    made_BFHW = run(layer, x_BCHW, dense_weight) + dense_bias[:, None, None]
    wanted_PF = target_BFHW.permute(0, 2, 3, 1)[valid_BHW]
    error = (made_BFHW.permute(0, 2, 3, 1)[valid_BHW] - wanted_PF).square().sum()
    spread = (wanted_PF - wanted_PF.mean(0)).square().sum()
    assert fit.r_squared() == pytest.approx(float(1 - error / spread), abs=1e-9)


@pytest.mark.parametrize("kind", ["deconv", "conv"])
def test_what_a_layer_made_gives_that_layer_back(kind: str) -> None:
    torch.manual_seed(1)
    made, x_BCHW = make_layer(kind), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        target_BFHW = made(x_BCHW)
    fit = LastLayerFit(made, ridge=1e-12)
    fit.add(x_BCHW, target_BFHW, torch.ones(3, *target_BFHW.shape[-2:], dtype=torch.bool))
    weight, bias = fit.solve()
    torch.testing.assert_close(weight, made.weight.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(bias, made.bias.detach(), atol=1e-5, rtol=0)
    assert fit.r_squared() == pytest.approx(1)


def test_a_silent_hidden_channel_gets_no_weight() -> None:
    torch.manual_seed(2)
    layer, x_BCHW = make_layer("deconv"), torch.randn(2, 3, 8, 8)
    x_BCHW[:, 1] = 0
    fit = LastLayerFit(layer)
    fit.add(x_BCHW, torch.randn(2, 2, 16, 16), torch.ones(2, 16, 16, dtype=torch.bool))
    weight, bias = fit.solve()
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()
    assert weight[1].abs().max() == 0


def test_nothing_to_fit_to_is_refused() -> None:
    with pytest.raises(LatentStoreError, match="no features at all: give a split with a teacher's"):
        LastLayerFit(make_layer("deconv")).solve()


def test_a_layer_of_another_form_is_refused() -> None:
    with pytest.raises(LatentStoreError, match=r"not written for Conv2d.*keep its fresh weights"):
        LastLayerFit(nn.Conv2d(3, 2, 3, stride=2, padding=1))
