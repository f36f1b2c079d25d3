"""A frozen hyperprior codec of any family, run so that every machine decodes its streams.

Where a number decides how bits are read (h_s and the scale indexes) everything is float64, at
both ends: in float32 indexes move with memory format, thread count and device, and one moved
index destroys the rest of a stream. Means come from the same h_s and are rounded to steps of ŷ, so
that they are equal everywhere too, but for ties (FORMAT.md, section 4). Where it does not matter
(g_a, h_a, g_s) float32 is enough: symbols of ŷ and ẑ are integers that the stream carries, and g_s
is within about 1e-6 of float64.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from latent_store.codec import stock
from latent_store.codec.families.base import LAST_OF_H_S, CodecFamily
from latent_store.codec.families.registry import family_of
from latent_store.codec.numerics import exact_float32
from latent_store.codec.state_dicts import load_state_dict, read_state_dict
from latent_store.codec.symbols import check_channels
from latent_store.codec.tables import EntropyTables
from latent_store.errors import CheckpointError, IntegrityError, LatentStoreError
from latent_store.format.schema import PAD_MULTIPLE, CodecSpec

WIDTHS = ("g_a.0.weight", "g_a.6.weight")
"""Weights whose first axes are N and M."""
TILE_BYTES = 1 << 18
"""Of a layer's output that are normalised at once, so that what lies between stays in the cache."""
ID_DIGITS = 8
"""Digits of the checkpoint's sha256 in a codec's id."""


Channels = Sequence[int] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Latents:
    """A batch of encoded pictures, and what their streams are made of.

    Attributes:
        y_hat_BCHW: [B, M, H/16, W/16]; int32 where the codec has no means, else float32.
        symbols_BCHW: Int32 of the same shape; ŷ is symbol + mean.
        indexes_BCHW: Uint8 of the same shape: the table of each symbol.
        z_symbols_BNHW: Int32 [B, N, H/64, W/64]; ẑ is symbol + median.
    """

    y_hat_BCHW: Tensor
    symbols_BCHW: Tensor
    indexes_BCHW: Tensor
    z_symbols_BNHW: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaussians:
    """What ẑ says of every element of one picture's ŷ, or of some channels of it.

    Attributes:
        indexes_CHW: Uint8 [C, h, w], the table that its symbol is coded with.
        means_CHW: Float32 [C, h, w], whole steps of ŷ; None where every mean is 0.
    """

    indexes_CHW: np.ndarray
    means_CHW: np.ndarray | None = None

    def y_hat(self, symbols_KHW: np.ndarray, channels: Channels | None = None) -> np.ndarray:
        """Returns ŷ of decoded symbols: these where every mean is 0, else float32.

        Args:
            symbols_KHW: Int32 [K, h, w].
            channels: Which of these Gaussians' channels they are; None for all.
        """
        if self.means_CHW is None:
            return symbols_KHW
        y_hat_KHW: np.ndarray = symbols_KHW.astype(np.float32) + self._means(channels)
        return y_hat_KHW

    def symbols(self, y_hat_KHW: np.ndarray, channels: Channels | None = None) -> np.ndarray:
        """Returns the symbols of ŷ, int32; arguments as of `y_hat`."""
        if self.means_CHW is not None:
            y_hat_KHW = np.rint(y_hat_KHW - self._means(channels))
        return y_hat_KHW.astype(np.int32)

    def _means(self, channels: Channels | None) -> np.ndarray:
        assert self.means_CHW is not None
        return self.means_CHW if channels is None else self.means_CHW[list(channels)]


class Codec:
    """A frozen hyperprior with its entropy tables and its identity.

    Made by `load_codec`, `codec_from_bytes` or `codec_from_store`. Pickles as its checkpoint
    file. No method tracks gradients, and results may be used in code that does.

    Attributes:
        family: Its kind.
        spec: Name and identity.
        checkpoint_bytes: The checkpoint file.
        tables: The checkpoint's entropy tables.
        model: CompressAI's, float32, channels_last, eval, no gradients.
    """

    def __init__(
        self,
        *,
        family: CodecFamily,
        spec: CodecSpec,
        model: stock.ScaleHyperprior,
        tables: EntropyTables,
        checkpoint: bytes,
    ) -> None:
        self.family = family
        self.spec = spec
        self.tables = tables
        self.checkpoint_bytes = checkpoint
        self.model = model.float().eval().requires_grad_(requires_grad=False)
        # Widened before the memory format changes: float64 stays in the stock model's format.
        self._h_s_float64 = copy.deepcopy(self.model.h_s).double()
        self.model.to(memory_format=torch.channels_last)
        for layer in [*self.model.g_a, *self.model.g_s]:
            if isinstance(layer, stock.GDN):
                # Its hooks, parameters and type stay those of the stock layer.
                layer.forward = functools.partial(normalise, layer)
        self.device = torch.device("cpu")
        self._move_tables()

    @classmethod
    def from_checkpoint(cls, data: bytes, name: str) -> Self:
        """Returns the codec of a checkpoint file, which messages call `name`.

        Raises:
            CheckpointError: It is truncated, of another architecture, or without entropy tables.
        """
        state_dict = read_state_dict(data, name)
        family = family_of(state_dict, name)
        model = _build_model(family, state_dict, name)
        try:
            tables = EntropyTables.from_model(model)
        except IntegrityError as error:
            raise CheckpointError(f"{name}: {error}") from error
        digest = hashlib.sha256(data).hexdigest()
        spec = CodecSpec(
            codec_id=f"{family.name}-{digest[:ID_DIGITS]}",
            architecture=family.name,
            weights_sha256=digest,
            cdf_sha256=tables.sha256,
            channels=model.M,
            hyper_channels=model.N,
            y_hat_steps=family.y_hat_steps,
        )
        return cls(family=family, spec=spec, model=model, tables=tables, checkpoint=data)

    def __repr__(self) -> str:
        return f"Codec({self.spec.codec_id!r}, device={str(self.device)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A receiver starts on the CPU: it may have no such device.
        return _from_pickle, (self.checkpoint_bytes, self.spec)

    def to(self, device: str | torch.device) -> Self:
        """Moves the networks to a device, in place, and returns the codec."""
        self.device = torch.device(device)
        self.model.to(self.device)
        self._h_s_float64.to(self.device)
        self._move_tables()
        return self

    def encode(self, x_BCHW: Tensor) -> Latents:
        """Returns symbols of ŷ, round(g_a(x) - mean), and of ẑ, with all that coding them needs.

        Args:
            x_BCHW: Float32 [B, 3, H, W] in [0, 1], not normalised; H and W multiples of 64.

        Raises:
            LatentStoreError: Another type or shape.
        """
        _check_pictures(x_BCHW)
        x = x_BCHW.to(self.device, memory_format=torch.channels_last)
        with torch.no_grad(), exact_float32(self.device):
            y = self.model.g_a(x)
            z = self.model.h_a(self.family.hyper_input(y))
            # As EntropyBottleneck.compress rounds, in float32.
            z_symbols = torch.round(z - self._median.float()).to(torch.int32).contiguous()
            indexes, means = self._gaussians(z_symbols)
            if means is None:
                y_hat = symbols = torch.round(y).to(torch.int32).contiguous()
            else:
                # Around the mean as it is, so that the symbols are CompressAI's.
                symbols = torch.round(y - means).to(torch.int32).contiguous()
                y_hat = symbols + in_steps(means, self.spec.y_hat_steps)
        return Latents(
            y_hat_BCHW=y_hat,
            symbols_BCHW=symbols,
            indexes_BCHW=indexes,
            z_symbols_BNHW=z_symbols,
        )

    def indexes(self, z_symbols_BNHW: Tensor) -> Tensor:
        """Returns the scale index of every symbol of ŷ, the same on every machine.

        Args:
            z_symbols_BNHW: Integers [B, N, h, w].

        Returns:
            uint8 [B, M, 4h, 4w]: the table of each symbol of ŷ.

        Raises:
            LatentStoreError: Another type or shape.
        """
        return self._gaussians(z_symbols_BNHW)[0]

    def gaussians(self, z_symbols_NHW: np.ndarray, channels: Channels | None = None) -> Gaussians:
        """Returns what the symbols of one picture's ẑ say of its ŷ.

        Args:
            z_symbols_NHW: Integers [N, h, w].
            channels: Channels of ŷ, in whose order the result is; h_s's last layer, most of its
                work, is computed for these alone. None means all.

        Raises:
            LatentStoreError: Another shape, or a channel is out of range or given twice.
        """
        z_symbols = torch.from_numpy(np.ascontiguousarray(z_symbols_NHW))
        count = self.spec.channels if channels is None else len(channels)
        if channels is not None:
            # A layer has an output at least.
            channels = check_channels(channels, self.spec.channels).tolist() or [0]
        indexes, means = self._gaussians(z_symbols[None], channels)
        if means is not None:
            means = in_steps(means, self.spec.y_hat_steps)
        return Gaussians(
            indexes_CHW=indexes[0, :count].cpu().numpy(),
            means_CHW=None if means is None else means[0, :count].cpu().numpy(),
        )

    def reconstruct(self, y_hat_BCHW: Tensor) -> Tensor:
        """Returns x̂ = g_s(ŷ), float32 [B, 3, 16h, 16w], neither clamped nor rounded.

        Args:
            y_hat_BCHW: [B, M, h, w], of any number type.

        Raises:
            LatentStoreError: Another shape.
        """
        if y_hat_BCHW.ndim != 4 or y_hat_BCHW.shape[1] != self.spec.channels:
            raise LatentStoreError(
                f"ŷ has shape {tuple(y_hat_BCHW.shape)}, {self.spec.codec_id} takes "
                f"[B, {self.spec.channels}, h, w]; use the codec that wrote it"
            )
        y_hat = y_hat_BCHW.to(self.device, torch.float32, memory_format=torch.channels_last)
        with torch.no_grad(), exact_float32(self.device):
            x_hat: Tensor = self.model.g_s(y_hat).contiguous()
        return x_hat

    def _gaussians(
        self, z_symbols_BNHW: Tensor, channels: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns scale indexes, uint8, and means, float64 or None, both [B, C, 4h, 4w]."""
        if z_symbols_BNHW.ndim != 4 or z_symbols_BNHW.shape[1] != self.spec.hyper_channels:
            raise LatentStoreError(
                f"ẑ has shape {tuple(z_symbols_BNHW.shape)}, {self.spec.codec_id} takes "
                f"[B, {self.spec.hyper_channels}, h, w]; use the codec that wrote it"
            )
        with torch.no_grad(), exact_float32(self.device):
            z_symbols = z_symbols_BNHW.to(self.device, torch.float64).contiguous()
            parameters = self._run_h_s(z_symbols + self._median, channels)
            scales, means = self.family.split(parameters)
            indexes = scale_indexes(scales.contiguous(), self._scale_table, self._scale_bound)
        return indexes, means

    def _run_h_s(self, z_hat_BNHW: Tensor, channels: Sequence[int] | None) -> Tensor:
        layers = self._h_s_float64
        if channels is None:
            return layers(z_hat_BNHW)  # type: ignore[no-any-return]
        planes = self.family.planes_of(channels, self.spec.channels)
        last = layers[LAST_OF_H_S]
        x = layers[:LAST_OF_H_S](z_hat_BNHW)
        x = conv2d(x, last.weight[planes], last.bias[planes], last.stride, last.padding)
        return layers[LAST_OF_H_S + 1 :](x)  # type: ignore[no-any-return]

    def _move_tables(self) -> None:
        def widened(name: str) -> Tensor:
            array = self.tables.to_arrays()[name]
            return torch.tensor(array, dtype=torch.float64, device=self.device)

        self._median = widened("z_median")[None, :, None, None]
        self._scale_table = widened("scale_table")
        self._scale_bound = widened("scale_bound")


def in_steps(means: Tensor, steps: int) -> Tensor:
    """Returns means rounded to whole steps of ŷ, so many in one; float32."""
    return (torch.round(means * steps) / steps).float().contiguous()


def scale_indexes(scales: Tensor, scale_table: Tensor, scale_bound: Tensor) -> Tensor:
    """Returns the table of each scale, exactly as `GaussianConditional.build_indexes` counts.

    Args:
        scales: Float64, any shape.
        scale_table: Float64 [S]: the float32 buffer widened. In float64 from scratch its first
            entry would lie below the bound's, and every index 0 would become 1.
        scale_bound: Float64 [1]: widened too.

    Returns:
        uint8 of the same shape: how many entries but the last lie below the bounded scale.
    """
    bounded = torch.maximum(scales, scale_bound)
    return torch.bucketize(bounded, scale_table[:-1]).to(torch.uint8)


def normalise(layer: stock.GDN, x_BCHW: Tensor) -> Tensor:
    """Returns GDN or its inverse of `x_BCHW`, within rounding of the stock layer.

    The 1×1 convolution over the squares is a product of matrices in channels_last, which torch
    does not make of it: with one thread it copies to the other format and back, and squares, norms
    and roots of a large picture each go through memory. Here they do tile by tile. Other formats
    and devices, and whoever asks for gradients, get the stock layer's own.

    Args:
        layer: It has the parameters.
        x_BCHW: Float32; overwritten where the fast way is taken.
    """
    plain = x_BCHW.device.type != "cpu" or x_BCHW.dtype != torch.float32
    if plain or torch.is_grad_enabled() or not _is_channels_last(x_BCHW):
        result: Tensor = type(layer).forward(layer, x_BCHW)
        return result
    beta_C = layer.beta_reparam(layer.beta)
    gamma_CC = layer.gamma_reparam(layer.gamma).t()
    channels = len(beta_C)
    rows_PC = x_BCHW.permute(0, 2, 3, 1).view(-1, channels)
    for tile_PC in torch.split(rows_PC, max(1, TILE_BYTES // (4 * channels))):
        norm_PC = torch.addmm(beta_C, tile_PC * tile_PC, gamma_CC)
        tile_PC.mul_(norm_PC.sqrt_() if layer.inverse else norm_PC.rsqrt_())
    return x_BCHW


def _is_channels_last(x_BCHW: Tensor) -> bool:
    return x_BCHW.is_contiguous(memory_format=torch.channels_last)


def _check_pictures(x_BCHW: Tensor) -> None:
    shape = tuple(x_BCHW.shape)
    if len(shape) != 4 or shape[1] != 3 or x_BCHW.dtype != torch.float32:
        raise LatentStoreError(
            f"pictures must be float32 [B, 3, H, W] in [0, 1], got {x_BCHW.dtype} {shape}"
        )
    height, width = shape[2:]
    if height % PAD_MULTIPLE or width % PAD_MULTIPLE or not height or not width:
        raise LatentStoreError(
            f"a picture of {height}x{width} cannot be coded: sides must be multiples of "
            f"{PAD_MULTIPLE}; pad it with pad_image"
        )


def _build_model(
    family: CodecFamily, state_dict: Mapping[str, Tensor], name: str
) -> stock.ScaleHyperprior:
    sizes = [state_dict[key].shape[:1] for key in WIDTHS if key in state_dict]
    N, M = (size[0] for size in sizes) if len(sizes) == 2 and all(sizes) else (0, 0)
    largest = max(tensor.nbytes for tensor in state_dict.values())
    if 2 * family.largest_layer(N, M) > largest:  # 2 bytes a weight in half precision
        raise CheckpointError(
            f"{name} has layers of {N} and {M} channels, but no weights of so many; give a "
            f"checkpoint of {family.name}"
        )
    N, M = max(N, 1), max(M, 1)  # sizes that are no codec's are told when it is compared
    # Building a model draws its initial weights; loading a codec must not move the caller's seed.
    with torch.random.fork_rng(devices=[]):
        model = family.new_model(N, M)
    load_state_dict(model, state_dict, name, family.name)
    return model


def _from_pickle(checkpoint: bytes, spec: CodecSpec) -> Codec:
    codec = Codec.from_checkpoint(checkpoint, spec.codec_id)
    codec.spec = spec
    return codec
