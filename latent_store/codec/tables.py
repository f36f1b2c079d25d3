"""Entropy tables of a frozen codec: everything, besides h_s, that a bitstream's meaning rests on.

The tables come from a checkpoint and are stored with the latents; they are never built again,
because a table that differs in one count decodes every stream to garbage.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from latent_store.codec import stock
from latent_store.errors import IntegrityError

PRECISION = 16
"""Bits of a quantised cumulative frequency; the total of every table is `1 << PRECISION`."""
MIN_CDF_LENGTH = 3
"""0, one symbol, the escape: a shorter table escapes always, which no encoder writes."""
MAX_SYMBOL = 1 << 24
"""Larger values are no latents: float32 does not hold them. Tables stay within it too, or the
distance of a symbol from its table needs the eighth digit, at which the coder loops for ever."""
MAX_SCALES = 256


class CoderTables(NamedTuple):
    """One set of tables as the Python lists that `compressai.ans` takes."""

    cdf: list[list[int]]
    length: list[int]
    offset: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyTables:
    """Quantised CDFs of ŷ and ẑ, and what turns scales into table numbers and symbols into ẑ.

    Row `i` of `y_cdf` serves scale index `i`; row `n` of `z_cdf` serves channel `n`.
    A row's first `length` entries rise from 0 to 65536; value `v` stands at column
    `v - offset`, and the last symbol of a row is the escape for values outside of it.

    Attributes:
        y_cdf: Int32 [S, L], padded with zeros behind `y_cdf_length`.
        y_cdf_length: Int32 [S].
        y_offset: Int32 [S].
        z_cdf: Int32 [N, L'].
        z_cdf_length: Int32 [N].
        z_offset: Int32 [N].
        scale_table: Float32 [S], rising; the checkpoint's own, since one computed again may
            differ in the last bit and move indexes.
        z_median: Float32 [N]; ẑ = symbol + median, in float64.
        scale_bound: Float32 [1]; scales are raised to it before they are looked up.

    Raises:
        IntegrityError: A table is not one that rANS can use. The C++ coder checks nothing.
    """

    y_cdf: np.ndarray
    y_cdf_length: np.ndarray
    y_offset: np.ndarray
    z_cdf: np.ndarray
    z_cdf_length: np.ndarray
    z_offset: np.ndarray
    scale_table: np.ndarray
    z_median: np.ndarray
    scale_bound: np.ndarray

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            array = _plain_array(field.name, getattr(self, field.name))
            array.flags.writeable = False
            object.__setattr__(self, field.name, array)
        _check_cdfs("y", self.y_cdf, self.y_cdf_length, self.y_offset)
        _check_cdfs("z", self.z_cdf, self.z_cdf_length, self.z_offset)
        _check_scales(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached lists are megabytes of Python integers; the receiver makes its own.
        return EntropyTables.from_arrays, (self.to_arrays(),)

    @classmethod
    def from_model(cls, model: stock.ScaleHyperprior) -> EntropyTables:
        """Copies the tables out of a model whose `update()` has run."""
        gaussian, bottleneck = model.gaussian_conditional, model.entropy_bottleneck
        tensors = {
            "y_cdf": gaussian.quantized_cdf,
            "y_cdf_length": gaussian.cdf_length,
            "y_offset": gaussian.offset,
            "z_cdf": bottleneck.quantized_cdf,
            "z_cdf_length": bottleneck.cdf_length,
            "z_offset": bottleneck.offset,
            "scale_table": gaussian.scale_table,
            "z_median": bottleneck.quantiles[:, 0, 1],
            # build_indexes uses this bound; the buffer scale_bound only looks like it.
            "scale_bound": gaussian.lower_bound_scale.bound,
        }
        return cls(**{name: t.detach().cpu().numpy() for name, t in tensors.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> EntropyTables:
        """Reads `to_arrays`; other names are left.

        Raises:
            IntegrityError: One is missing, or is no valid table.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise IntegrityError(
                f"entropy tables lack {', '.join(missing)}; restore the codec's group"
            )
        return cls(**{name: arrays[name] for name in names})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns every table by name, for a store."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def hyper_channels(self) -> int:
        """N, the channels of ẑ."""
        return len(self.z_cdf_length)

    @property
    def num_scales(self) -> int:
        """S, the number of scale indexes."""
        return len(self.y_cdf_length)

    @cached_property
    def sha256(self) -> str:
        """Hex digest over names, types, shapes and little-endian bytes, in field order."""
        digest = hashlib.sha256()
        for name, array in self.to_arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    @cached_property
    def y_coder(self) -> CoderTables:
        """The tables of ŷ as lists. Made once: each conversion costs milliseconds and the GIL."""
        return _coder_tables(self.y_cdf, self.y_cdf_length, self.y_offset)

    @cached_property
    def z_coder(self) -> CoderTables:
        """The tables of ẑ as lists."""
        return _coder_tables(self.z_cdf, self.z_cdf_length, self.z_offset)

    @cached_property
    def y_bits(self) -> np.ndarray:
        """float64 [S, L-1]: bits of each symbol of each row, the escape flag included."""
        return _symbol_bits(self.y_cdf, self.y_cdf_length)

    @cached_property
    def z_bits(self) -> np.ndarray:
        """float64 [N, L'-1]: as `y_bits`, for ẑ."""
        return _symbol_bits(self.z_cdf, self.z_cdf_length)


_FLOAT_FIELDS = frozenset({"scale_table", "z_median", "scale_bound"})


def _plain_array(name: str, values: Any) -> np.ndarray:
    """Returns a field as it is kept, float32 or int32; no other number becomes one unnoticed."""
    array = np.asarray(values)
    kinds, dtype = ("f", "<f4") if name in _FLOAT_FIELDS else ("iu", "<i4")
    most = np.iinfo(np.int32).max
    wrong_kind = array.dtype.kind not in kinds
    if wrong_kind or (dtype == "<i4" and ((array < -most) | (array > most)).any()):
        raise IntegrityError(
            f"the entropy table {name} has numbers of type {array.dtype}, or too large ones, for "
            f"{dtype}; take it from a checkpoint whose update() has run"
        )
    with np.errstate(over="ignore"):  # the infinite ones are refused where scales are checked
        return np.array(array, dtype=dtype, order="C")


def _coder_tables(cdf: np.ndarray, length: np.ndarray, offset: np.ndarray) -> CoderTables:
    # Rows without their padding: the binding copies every list at each call.
    rows = [row[:n].tolist() for row, n in zip(cdf, length, strict=True)]
    return CoderTables(rows, length.tolist(), offset.tolist())


def _symbol_bits(cdf: np.ndarray, length: np.ndarray) -> np.ndarray:
    frequency = np.diff(cdf.astype(np.float64), axis=1)
    valid = np.arange(frequency.shape[1]) < (length[:, None] - 1)
    return np.where(valid, PRECISION - np.log2(np.where(valid, frequency, 1.0)), np.inf)


def _check_cdfs(name: str, cdf: np.ndarray, length: np.ndarray, offset: np.ndarray) -> None:
    if cdf.ndim != 2 or length.shape != (len(cdf),) or offset.shape != (len(cdf),) or not cdf.size:
        raise IntegrityError(
            f"entropy tables of {name} have shapes {cdf.shape}, {length.shape}, {offset.shape}; "
            "expected [S, L], [S], [S]; take them from a checkpoint whose update() has run"
        )
    width = cdf.shape[1]
    fits = (length >= MIN_CDF_LENGTH) & (length <= width)
    column = np.arange(width)
    last = np.take_along_axis(cdf, np.clip(length - 1, 0, width - 1)[:, None], axis=1)[:, 0]
    rises = (np.diff(cdf, axis=1) > 0) | (column[1:] >= length[:, None])
    good = fits & (cdf[:, 0] == 0) & (last == 1 << PRECISION) & rises.all(axis=1)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise IntegrityError(
            f"entropy table {row} of {name} does not rise from 0 to {1 << PRECISION} over its "
            f"length of {int(length[row])}; restore the tables, rANS would read outside of them"
        )
    far = np.maximum(np.abs(offset.astype(np.int64)), np.abs(offset + length.astype(np.int64)))
    if (far > MAX_SYMBOL).any():
        row = int(far.argmax())
        raise IntegrityError(
            f"entropy table {row} of {name} is for symbols from {int(offset[row])} on, which stay "
            f"within ±{MAX_SYMBOL}; restore the tables"
        )


def _check_scales(tables: EntropyTables) -> None:
    shapes = (tables.scale_table.shape, tables.z_median.shape, tables.scale_bound.shape)
    expected = ((tables.num_scales,), (tables.hyper_channels,), (1,))
    values = np.concatenate([tables.scale_table, tables.z_median, tables.scale_bound], axis=None)
    if shapes != expected or not np.isfinite(values).all():
        raise IntegrityError(
            f"scale table, medians and bound have shapes {shapes}, expected {expected}, all "
            "finite; restore the codec's tables"
        )
    if tables.num_scales > MAX_SCALES:
        raise IntegrityError(
            f"the codec has {tables.num_scales} scales, uint8 indexes allow {MAX_SCALES}"
        )
    if tables.scale_bound[0] <= 0 or (np.diff(tables.scale_table) <= 0).any():
        raise IntegrityError(
            f"the scale table does not rise, or its bound {float(tables.scale_bound[0])} is not "
            "positive; restore the codec's tables"
        )
