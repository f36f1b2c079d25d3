"""Least squares for a last convolution: the weights that fit given features best, exactly.

A transposed convolution of stride 2 is four ordinary ones, one for each parity of the output's row
and column, which share nothing but the bias:

    output row 2p     ◄ input rows p+1, p, p-1    (kernel rows 0, 2, 4)
    output row 2p+1   ◄ input rows p+1, p         (kernel rows 1, 3)

So the 5×5 kernel's normal equations fall into systems of 9, 6, 6 and 4 taps a hidden channel, and
the bias, which all have in common, is eliminated last. A convolution of stride 1 is one such system
of its own. Everything is summed in float64 in the order in which it is given.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from latent_store.errors import LatentStoreError


@dataclass(frozen=True, kw_only=True)
class _Phase:
    """One parity of the output: which of its positions, and which taps reach them.

    Attributes:
        offset: First row and column of the output; the rest follow at the layer's stride.
        kernel: Row and column of the kernel, a tap each.
        shift: Rows and columns by which a tap's input lies beyond the output's position.
    """

    offset: tuple[int, int]
    kernel: tuple[tuple[int, int], ...]
    shift: tuple[tuple[int, int], ...]


class LastLayerFit:
    """Normal equations of a layer's weights and bias, summed batch by batch.

    Args:
        layer: A `Conv2d` of stride 1 with padding that keeps the size, or a `ConvTranspose2d` of
            kernel 5, stride 2 that doubles it; it gives shapes, and the device of the sums.
        ridge: Added to the diagonal, as a share of its mean: keeps hidden channels that are all
            but silent from getting huge weights.
    """

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, *, ridge: float = 1e-4) -> None:
        self.ridge, self.positions = ridge, 0
        self._transposed = isinstance(layer, nn.ConvTranspose2d)
        self.inputs, self.outputs = layer.in_channels, layer.out_channels
        self._kernel = layer.kernel_size
        self._stride = 2 if self._transposed else 1
        self._phases = _phases(layer)
        zeros = functools.partial(layer.weight.new_zeros, dtype=torch.float64)
        self._systems = [
            _System(zeros, len(p.kernel) * self.inputs, self.outputs) for p in self._phases
        ]
        self._squares, self._sums = zeros(self.outputs), zeros(self.outputs)
        self._weight = zeros(self.inputs, self.outputs, *self._kernel)

    @torch.no_grad()
    def add(
        self, hidden_BCHW: torch.Tensor, target_BFHW: torch.Tensor, valid_BHW: torch.Tensor
    ) -> None:
        """Adds a batch.

        Args:
            hidden_BCHW: What comes into the layer.
            target_BFHW: What shall come out, at the layer's output size.
            valid_BHW: bool, output positions that count.
        """
        hidden_BCHW, target_BFHW = hidden_BCHW.double(), target_BFHW.double()
        stride = self._stride
        for phase, system in zip(self._phases, self._systems, strict=True):
            top, left = phase.offset
            valid = valid_BHW[:, top::stride, left::stride]
            taps = torch.stack([_shifted(hidden_BCHW, *by) for by in phase.shift], dim=1)
            rows_PT = taps.permute(0, 3, 4, 1, 2).flatten(3)[valid]
            wanted_PF = target_BFHW[:, :, top::stride, left::stride].permute(0, 2, 3, 1)[valid]
            system.add(rows_PT, wanted_PF)
            self._squares += wanted_PF.square().sum(0)
            self._sums += wanted_PF.sum(0)
            self.positions += len(wanted_PF)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the layer's weight, in its own layout, and bias [F], float32.

        Raises:
            LatentStoreError: If nothing was added.
        """
        if not self.positions:
            raise LatentStoreError(
                "a transform's last layer cannot be fitted to no features at all: give a split "
                "with a teacher's features"
            )
        solved = [system.solve(self.ridge) for system in self._systems]
        # Of a phase: w = a − b ⊗ bias, where A a = r and A b = s. Put into the bias's own equation.
        pairs = list(zip(self._systems, solved, strict=True))
        left = self.positions - sum(s.sums_T @ b_T for s, (_, b_T) in pairs)
        bias_F = (self._sums - sum(s.sums_T @ a_TF for s, (a_TF, _) in pairs)) / left
        weight = self._weight.clone()
        for phase, (a_TF, b_T) in zip(self._phases, solved, strict=True):
            taps = (a_TF - b_T[:, None] * bias_F).unflatten(0, (len(phase.kernel), self.inputs))
            for (row, column), tap_CF in zip(phase.kernel, taps, strict=True):
                weight[:, :, row, column] = tap_CF
        weight = weight if self._transposed else weight.transpose(0, 1)
        self._solution = (solved, bias_F)
        return weight.float().contiguous(), bias_F.float()

    def r_squared(self) -> float:
        """Returns the share of the fitted targets' variance that `solve`'s solution explains."""
        solved, bias_F = self._solution
        error = self._squares.sum()
        for system, (a_TF, b_T) in zip(self._systems, solved, strict=True):
            weight_TF = a_TF - b_T[:, None] * bias_F
            error += ((system.gram_TT @ weight_TF) * weight_TF).sum()
            error += 2 * (system.sums_T @ weight_TF) @ bias_F
            error -= 2 * (weight_TF * system.right_TF).sum()
        error += self.positions * bias_F.square().sum() - 2 * (bias_F * self._sums).sum()
        spread = self._squares.sum() - self._sums.square().sum() / self.positions
        return float(1 - error / spread)


class _System:
    """Normal equations of one phase, without the bias: A w = r, and A's sums for the bias.

    Attributes:
        gram_TT: A, float64 [taps·C, taps·C].
        right_TF: r, float64 [taps·C, F].
        sums_T: Sums of the rows, float64 [taps·C].
    """

    def __init__(self, zeros: Callable[..., torch.Tensor], unknowns: int, outputs: int) -> None:
        self.gram_TT, self.sums_T = zeros(unknowns, unknowns), zeros(unknowns)
        self.right_TF = zeros(unknowns, outputs)

    def add(self, rows_PT: torch.Tensor, wanted_PF: torch.Tensor) -> None:
        """Adds equations, one a position."""
        self.gram_TT.addmm_(rows_PT.T, rows_PT)
        self.right_TF.addmm_(rows_PT.T, wanted_PF)
        self.sums_T += rows_PT.sum(0)

    def solve(self, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns A⁻¹ r and A⁻¹ s with the ridge on A's diagonal."""
        diagonal_T = self.gram_TT.diagonal()
        # A hidden channel that is silent everywhere needs a ridge of its own, or A is singular.
        added = max(ridge * float(diagonal_T.mean()), 1e-12)
        raised_TT = self.gram_TT.clone()
        raised_TT.diagonal().add_(added)
        factor = torch.linalg.cholesky(raised_TT)
        right = torch.cat([self.right_TF, self.sums_T[:, None]], dim=1)
        both = torch.cholesky_solve(right, factor)
        return both[:, :-1], both[:, -1]


def _phases(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[_Phase]:
    """Returns the systems that a layer falls into.

    Raises:
        LatentStoreError: If the layer is of another form.
    """
    centred = tuple(2 * int(margin) + 1 for margin in layer.padding)
    if isinstance(layer, nn.ConvTranspose2d):
        form = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
        if form == ((5, 5), (2, 2), (2, 2), (1, 1)):
            # Of each parity: kernel index and shift of every tap.
            ways = (((0, 1), (2, 0), (4, -1)), ((1, 1), (3, 0)))
            return [
                _Phase(
                    offset=(top, left),
                    kernel=tuple((k, m) for k, _ in ways[top] for m, _ in ways[left]),
                    shift=tuple((s, t) for _, s in ways[top] for _, t in ways[left]),
                )
                for top in (0, 1)
                for left in (0, 1)
            ]
    elif layer.stride == (1, 1) and layer.kernel_size == centred:
        rows, columns = layer.kernel_size
        kernel = tuple((k, m) for k in range(rows) for m in range(columns))
        shift = tuple((k - rows // 2, m - columns // 2) for k, m in kernel)
        return [_Phase(offset=(0, 0), kernel=kernel, shift=shift)]
    raise LatentStoreError(f"least squares are not written for {layer}: keep its fresh weights")


def _shifted(x_BCHW: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Returns the input read `down` rows and `right` columns further on, zeros beyond its edges."""
    height, width = x_BCHW.shape[-2:]
    padded = F.pad(x_BCHW, (max(-right, 0), max(right, 0), max(-down, 0), max(down, 0)))
    top, left = max(down, 0), max(right, 0)
    return padded[..., top : top + height, left : left + width]
