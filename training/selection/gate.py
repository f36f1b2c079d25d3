"""The gate: decides from pooled latents which channels are kept.

    pooled [B, C] ─ standardise ─ 1×1 conv C→C ─ LayerNorm ─ ReLU ─ grouped 1×1 conv C→2C ─┐
                                                                                           │
      gate [B, C] in {0, 1} ◄─ training: straight-through hard Gumbel-softmax ◄────────────┤
                               evaluation: argmax, no noise                                │
      P(on) [B, C] ◄─ softmax without noise ◄──────────────────────────────────────────────┘

The paper (section 2.2, figure 3) gives pooling, two convolutional layers, 2C logits of which the
FIRST C mean off and the LAST C on, and Gumbel-softmax. Widths are those of the gate it cites,
DCTNet's (Xu et al., Learning in the frequency domain, CVPR 2020), with two differences:

- LayerNorm over the C hidden units in place of batch norm. On the 1×1 maps of a gate, batch norm
  cannot train with one image in the batch and makes one image's gate depend on the others'.
- Evaluation draws no noise, so that counting a gate's decisions has one answer.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from latent_store.errors import LatentStoreError
from training.data.sampling import NOISE_KEY

_NAMED_BIASES = {"neutral": (0.0, 0.0), "dctnet": (0.1, 2.0)}
_STANDARDISED_LIMIT = 5.0
_STD_FLOOR = 0.05


class GateOutput(NamedTuple):
    """The gate's decisions, and the probability of each to be "on".

    Attributes:
        gate_BC: Float32, exactly 0 or 1; in training its gradient is the soft sample's.
        probability_BC: Float32, P(on) without noise.
    """

    gate_BC: torch.Tensor
    probability_BC: torch.Tensor


class ChannelGate(nn.Module):
    """Keeps or drops each channel of one image, seeing only one pooled number a channel.

    Attributes:
        temperature: Of the Gumbel-softmax in training; a 0-dimensional buffer, so that annealing
            it does not recompile a compiled network.
        input_mean_C, input_std_C: Fixed statistics that standardise the pooled input. Pooled
            latents range from 0 to tens: without this the first norm sees three loud channels and
            the gate is a constant.
    """

    input_mean_C: torch.Tensor
    input_std_C: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, channels: int, *, bias: str = "neutral") -> None:
        super().__init__()
        self.channels = channels
        self.hidden = nn.Conv2d(channels, channels, kernel_size=1)
        self.norm = nn.LayerNorm(channels)
        self.logits = nn.Conv2d(channels, 2 * channels, kernel_size=1, groups=channels)
        self.register_buffer("input_mean_C", torch.zeros(channels))
        self.register_buffer("input_std_C", torch.ones(channels))
        self.register_buffer("temperature", torch.tensor(1.0))
        off, on = parse_gate_bias(bias)
        nn.init.normal_(self.logits.weight, std=0.1)
        with torch.no_grad():
            assert self.logits.bias is not None  # as convolutions have by default
            self.logits.bias.copy_(torch.tensor([off, on]).repeat(channels))

    def set_input_statistics(self, mean_C: torch.Tensor, std_C: torch.Tensor) -> None:
        """Fixes the standardisation by each channel's pooled values over the training split.

        Deviations under 0.05 count as 0.05, so that a channel that is silent in training does not
        explode when it first speaks.
        """
        self.input_mean_C.copy_(mean_C)
        self.input_std_C.copy_(std_C.clamp_min(_STD_FLOOR))

    def forward(self, pooled_BC: torch.Tensor, noise_BC2: torch.Tensor | None = None) -> GateOutput:
        """Decides for each image of the batch on its own.

        Args:
            pooled_BC: Float32, the whole image's channel means or RMS, as stored.
            noise_BC2: Float32, Gumbel noise for (off, on), from `gumbel_noise`; required in
                training, not used in evaluation.

        Raises:
            ValueError: If in training there is no noise.
        """
        with _float32(pooled_BC.device.type):
            logits_B2C = self.paper_logits(pooled_BC.float())
            probability_BC = logits_B2C.softmax(dim=1)[:, 1]
            if not self.training:
                return GateOutput((logits_B2C[:, 1] > logits_B2C[:, 0]).float(), probability_BC)
            if noise_BC2 is None:
                raise ValueError(
                    "the gate samples in training: pass noise_BC2 (gumbel_noise(seed, epoch, rows, "
                    "channels)), or call .eval() for its decisions without noise"
                )
            noisy_B2C = logits_B2C + noise_BC2.transpose(1, 2)
            soft_BC = (noisy_B2C / self.temperature).softmax(dim=1)[:, 1]
            hard_BC = (noisy_B2C[:, 1] > noisy_B2C[:, 0]).to(soft_BC.dtype)
            # The bracket is exactly zero forward, so the gate is exactly 0 or 1.
            return GateOutput(hard_BC + (soft_BC - soft_BC.detach()), probability_BC)

    def paper_logits(self, pooled_BC: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, 2, C]; flattened to [B, 2C] the first C are off, the last C on.

        The grouped convolution gives (off, on) pairs channel by channel, so that both of a
        channel's logits come from its own hidden unit; they are rearranged to the paper's order.
        """
        x_BC = (pooled_BC - self.input_mean_C) / self.input_std_C
        x_BC = x_BC.clamp(-_STANDARDISED_LIMIT, _STANDARDISED_LIMIT)
        hidden_BC = F.relu(self.norm(self.hidden(x_BC[:, :, None, None]).flatten(1)))
        pairs_B2C = self.logits(hidden_BC[:, :, None, None]).flatten(1)
        return pairs_B2C.unflatten(1, (self.channels, 2)).transpose(1, 2)


def parse_gate_bias(text: str) -> tuple[float, float]:
    """Returns the initial (off, on) biases named by `neutral`, `dctnet` or a number (on's bias).

    Raises:
        LatentStoreError: If it is none of the three.
    """
    if text in _NAMED_BIASES:
        return _NAMED_BIASES[text]
    try:
        bias = float(text)
    except ValueError:
        bias = math.nan
    if not math.isfinite(bias):
        raise LatentStoreError(f"--gate_bias must be neutral, dctnet or a number, got {text!r}")
    return 0.0, bias


def gumbel_noise(seed: int, epoch: int, rows: Sequence[int], channels: int) -> torch.Tensor:
    """Returns Gumbel noise, float32 [B, C, 2], that depends only on (seed, epoch, row).

    So a sample meets the same noise whatever batch, process or device it lands in.
    """
    generators = (np.random.default_rng((NOISE_KEY, seed, epoch, int(row))) for row in rows)
    noise = [generator.gumbel(size=(channels, 2)) for generator in generators]
    return torch.from_numpy(np.stack(noise).astype(np.float32))


def annealed(start: float, end: float, progress: float) -> float:
    """Returns the temperature at `progress` in [0, 1] on the straight line from start to end."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def pool_latents(y_hat_BCHW: torch.Tensor, kind: str) -> torch.Tensor:
    """Returns what the store keeps as `channel_mean` or `channel_rms`, float32 [B, C].

    Args:
        y_hat_BCHW: Latents, integer or float, on the image's whole coded grid: what the image was
            padded with is pooled too, as it is coded too.
        kind: "mean" or "rms".
    """
    y_hat_BCHW = y_hat_BCHW.double()
    if kind == "mean":
        return y_hat_BCHW.mean((-2, -1)).float()
    return y_hat_BCHW.square().mean((-2, -1)).sqrt().float()


def _float32(device: str) -> contextlib.AbstractContextManager[object]:
    """Keeps autocast out: in bf16 a decision would depend on how near 0 its logits happen to be."""
    if not torch.amp.is_autocast_available(device):  # shapes are computed on the meta device
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)
