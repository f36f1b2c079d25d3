"""The transform's computed start: from the codec's synthesis and the teacher's features, no labels.

    ŷ ─ first layer, IGDN: those of g_s ─► hidden ─ last layer: least squares ─► F of the teacher

The codec's synthesis transform begins with what Module-Deconv begins with, a 5×5 transposed
convolution of stride 2 and an IGDN, which were trained to undo g_a; they fill half of the hidden
channels. The other half gets the same latents without the IGDN, which for the same filters says
where the normalisation hides what the features need. Hidden channels are brought to one size: a
step of Adam is as long for all weights, and undoes a start whose channels are of many sizes. The
last layer is then linear in what it sees, and is fitted exactly, see `least_squares`.

`distil` goes on from there, or from fresh weights: steps of the transform alone on the stored
features, without labels and without the tail, at `DISTIL_RATE` and from a slow beginning, since
Adam's first steps are as long as if every gradient were certain.

Features that are explained in part vary less than the teacher's, and the tail's batch norms expect
the teacher's. So their statistics are taken anew on what the transform gives, without labels too
(`Objective.settle`): with the codec q1 and MobileNetV2 on Cityscapes at 256×256 the mIoU of the
start, before any step with a label, is 0.24 then instead of 0.11; the teacher itself has 0.26 on
decoded pictures.
"""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from latent_store.batches.source import CropRule
from latent_store.codec import Codec, stock
from latent_store.console import progress
from training.data.loader import to_tensors
from training.data.store_source import StoreSource
from training.networks.least_squares import LastLayerFit
from training.networks.networks import LatentNetwork
from training.networks.transforms import ModuleDeconv
from training.tasks.losses import cell_mask, distillation
from training.tasks.objective import network_inputs, to_device

FIT_IMAGES = 100
_SIZED_IMAGES = 8
"""The sizes of hidden channels are taken on so many of them."""
DISTIL_RATE = 0.3
"""Of the training's learning rate: after 70 steps a start was worse at 1e-3, and better at 3e-4."""
TRANSFORM_RATE = 0.1
"""Of the training's learning rate, for a transform with a start. At the full rate Adam undoes it:
squared error of the features 6.8 before training, 35 after 90 steps of it. Held-out mIoU after 133
steps, of one seed: 0.273 at 1, 0.278 at 0.3, 0.286 at 0.1 (codec q1, MobileNetV2, Cityscapes)."""
_WARM = 0.1
"""Share of the steps over which the rate rises."""
CPU = torch.device("cpu")
_LOG = logging.getLogger(__name__)


def can_be_computed(network: nn.Module) -> bool:
    """Returns whether a network's transform is of the form that a start is computed for."""
    return isinstance(network, LatentNetwork) and isinstance(network.transform, ModuleDeconv)


@torch.no_grad()
def compute_start(
    network: LatentNetwork,
    source: StoreSource,
    codec: Codec,
    *,
    images: int = FIT_IMAGES,
    device: torch.device = CPU,
) -> float:
    """Gives a Module-Deconv the codec's first layer and the last layer that fits F best.

    Args:
        network: With its statistics set (`initialise.set_statistics`).
        source: The training split of the codec's latents, with the teacher's features.
        images: So many, spread over the split, are fitted to.
        device: Where the sums are made, and the network lies from then on.

    Returns:
        R² of the features on these images.
    """
    start_from_synthesis(network, codec.model.g_s)
    network.to(device)
    transform = network.transform
    rows = source.rows[:: -(-len(source.rows) // images)].tolist()
    sized = rows[:: -(-len(rows) // _SIZED_IMAGES)]
    size_hidden_channels(transform, [x for _, x in _latents(network, source, sized, device)])
    fit = LastLayerFit(transform.up2)
    mean_C11, std_C11 = network.feature_mean_C[:, None, None], network.feature_std_C[:, None, None]
    images_of = _latents(network, source, rows, device)
    bar = progress(images_of, total=len(rows), desc="computed start", unit="image")
    for batch, scaled_BCHW in bar:
        hidden_BCHW = transform.hidden(scaled_BCHW)
        target_BCHW = (batch["features_BCHW"] - mean_C11) / std_C11
        fit.add(hidden_BCHW, target_BCHW, cell_mask(batch))
    weight, bias = fit.solve()
    transform.up2.weight.copy_(weight)
    transform.up2.bias.copy_(bias)
    found = fit.r_squared()
    _LOG.info("computed start: R² %.3f of the teacher's features on %d images", found, len(rows))
    return found


def _latents(
    network: LatentNetwork, source: StoreSource, rows: Sequence[int], device: torch.device
) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
    """Yields whole images, one by one, with the latents that the transform gets of each."""
    accepts = network.selection.accepts
    for number, row in enumerate(rows):
        (arrays,) = source.load([(row,)], CropRule(seed=0, crop=0), 0)
        batch = to_device(to_tensors(arrays), device)
        # A network for any N sees each of its cuts in turn.
        keep = accepts[number % len(accepts)]
        scaled_BCHW = network.scaled(batch["y_hat_BCHW"][:, :keep].float())
        if network.gate is None:  # it knows nothing yet: fitted is what all channels give
            scaled_BCHW, _ = network.selection.select(network, scaled_BCHW, None, None)
        yield batch, scaled_BCHW


@torch.no_grad()
def size_hidden_channels(transform: ModuleDeconv, scaled: Sequence[torch.Tensor]) -> None:
    """Brings hidden channels, before and behind the activation, to a root mean square of 1.

    The last layer does not make up for it: it is fitted afterwards.

    Args:
        transform: In place; channels that are 0 everywhere stay as they are.
        scaled: Latents as the transform gets them, [B,C,H/16,W/16] each.
    """
    before_C, behind_C = torch.zeros(2, transform.up1.out_channels, device=scaled[0].device)
    for scaled_BCHW in scaled:
        x_BCHW = transform.up1(scaled_BCHW)
        before_C += x_BCHW.square().mean((0, 2, 3)) / len(scaled)
        behind_C += transform.activation(x_BCHW).square().mean((0, 2, 3)) / len(scaled)
    factors_2C = torch.stack((before_C, behind_C)).rsqrt()
    before_C, behind_C = factors_2C.where(factors_2C.isfinite(), 1.0)
    ours = transform.activation
    if not isinstance(ours, stock.GDN):
        before_C = behind_C  # a ReLU passes factors on
    else:
        beta, gamma = ours.beta_reparam(ours.beta), ours.gamma_reparam(ours.gamma)
        ratio_C = behind_C / before_C
        ours.beta.copy_(ours.beta_reparam.init(beta * ratio_C.square()))
        scaled_gamma = gamma * (ratio_C[:, None] / before_C[None]).square()
        ours.gamma.copy_(ours.gamma_reparam.init(scaled_gamma))
    for parameter in (transform.up1.weight.transpose(0, 1), transform.up1.bias):
        assert parameter is not None
        parameter.mul_(before_C.reshape(-1, *(1,) * (parameter.ndim - 1)))


@torch.no_grad()
def start_from_synthesis(network: LatentNetwork, synthesis: Any) -> None:
    """Copies g_s' first layer and IGDN into a Module-Deconv's hidden channels, half of them at
    most codecs.

    The layer without the IGDN goes into as many of the rest; what is left then, of a codec of few
    channels, keeps its fresh weights.
    """
    layer, theirs = synthesis[0], synthesis[1]
    transform = network.transform
    hidden = transform.up1.out_channels
    half = min(layer.out_channels, hidden)
    both = min(half, hidden - half)
    scale_C111 = network.latent_scale_C[:, None, None, None]
    weight = layer.weight[list(network.selection.numbers), :half] / scale_C111
    linear = slice(half, half + both)
    transform.up1.weight[:, :half] = weight
    transform.up1.bias[:half] = layer.bias[:half]
    transform.up1.weight[:, linear] = weight[:, :both]
    transform.up1.bias[linear] = layer.bias[:both]
    if not isinstance(transform.activation, stock.GDN):
        # A ReLU passes what is above 0: the second half gets the rest.
        transform.up1.weight[:, linear].neg_()
        transform.up1.bias[linear].neg_()
        return
    ours = transform.activation
    # GDN keeps square roots, and a pedestal that stands for 0.
    pedestal = float(ours.gamma_reparam.pedestal) ** 0.5
    ours.gamma.fill_(pedestal)
    ours.gamma[:half, :half] = theirs.gamma[:half, :half]
    ours.beta[:half] = theirs.beta[:half]
    ours.beta[half:] = (1.0 + pedestal**2) ** 0.5


def distil(
    network: LatentNetwork,
    batches: Iterable[Mapping[str, Any]],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> float:
    """Trains the transform alone to give the teacher's features; the tail is not run.

    Args:
        batches: As a `CropLoader` yields them, endlessly, with "features_BCHW".
        steps: Of Adam.
        learning_rate: The highest: the rate rises to it, and falls along a half cosine.
        seed: Of the cuts and of the gate's noise.
        device: Where it is trained; the network is moved there.

    Returns:
        The mean squared error of the last tenth of the steps, in the features' own units.
    """
    network.to(device)
    optimizer = torch.optim.Adam(network.transform.parameters(), lr=learning_rate, fused=True)
    tenth, errors = max(1, steps // 10), []
    some = itertools.islice(batches, steps)
    bar = progress(some, total=steps, desc="distilled start", unit="step")
    for step, given in enumerate(bar):
        batch, more = network.selection.draw(to_device(given, device), seed, 0)
        inputs: tuple[Any, ...] = network_inputs(network, batch)
        features_BCHW = network.transformed(*inputs, **more)["features"]
        loss = distillation(features_BCHW, batch, int(cell_mask(batch).sum()))
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / (_WARM * steps))
            group["lr"] = learning_rate * warm * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= steps - tenth:
            errors.append(loss.detach())
    found = float(torch.stack(errors).mean()) if errors else math.nan
    _LOG.info("distilled start: mean squared error %.4f of the features, %d steps", found, steps)
    return found
