"""Files of `torch.save`, read as data, if that takes no more than the files are long.

Torch runs no code out of them. But a packed entry grows a thousandfold, a tensor may claim any
shape, and sixty times "the same twice" makes a value that Python hashes for ever, as it does with
the keys of a dict. Such files are refused by what they say, before anything is made of it.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable
from typing import IO, Any

import torch
from torch import Tensor

MOST_SHARED = 2**18
"""Values that containers may hold by sharing them, beside those that the file spells out."""
MOST_LEVELS = 500
"""Of containers in containers: Python hashes them without an end to its stack."""
MOST_CLAIMED = 16
"""How many times as long as the file its tensors may be together, as they may share numbers."""
_SMALL = 2**20
"""In bytes: tensors that may claim more."""
_PIECE = 64
"""In bytes: so much of a text counts as a value."""
_OLD_PICKLES = 5
"""In a row, in a file of the format before archives."""


def load_pickle(data: bytes, map_location: str | torch.device = "cpu") -> Any:
    """Returns what `torch.save` wrote, if that is tensors and plain types.

    Raises:
        ValueError: It is packed, or its values hold far more than it spells out.
        Exception: Whatever torch raises for damaged files.
    """
    _require_unpacked(data)
    for pickled in _pickles(data):
        _require_plain(pickled)
    return torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)


def require_held(content: Any, length: int) -> None:
    """Refuses tensors that are longer than a file of that length can hold.

    Raises:
        ValueError: They are, each taken as often as it occurs.
    """

    def claimed(value: Any) -> int:
        return value.nbytes if isinstance(value, Tensor) and value.layout == torch.strided else 0

    _require_total(content, claimed, MOST_CLAIMED * length + _SMALL)


def _require_unpacked(data: bytes) -> None:
    """Refuses a file that grows when it is read: torch stores its entries as they are."""
    if not data.startswith(b"PK"):
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(data):
            raise ValueError("its entries are larger than the file")


def _pickles(data: bytes) -> list[IO[bytes]]:
    """Returns what torch will unpickle; in the old format it lies in a row in one file."""
    if not data.startswith(b"PK"):
        return [io.BytesIO(data)] * _OLD_PICKLES
    # By torch's own reader: another may find another entry of that name.
    archive = torch._C.PyTorchFileReader(io.BytesIO(data))
    return [io.BytesIO(archive.get_record("data.pkl"))]


def _require_plain(pickled: IO[bytes]) -> None:
    """Refuses a pickle of values that hold far more than it spells out, or hold it too deep."""
    # As torch has them: values, and below a mark those before it. A container is a list of what
    # is put into it, all else the number of values that it counts as.
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    spelled = 0
    for opcode, argument, _ in pickletools.genops(pickled):
        name, inputs = opcode.name, len(opcode.stack_before)
        if name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name == "TUPLE":
            below[-1].append(stack)
            stack = below.pop()
        elif name in ("APPENDS", "SETITEMS"):
            below[-1][-1].extend(stack)
            stack = below.pop()
        elif name in ("APPEND", "SETITEM", "BUILD"):
            items = [stack.pop() for _ in range(inputs - 1)]
            stack[-1].extend(items)
        elif name != "STOP" and opcode.stack_after:
            items = [stack.pop() for _ in range(inputs)]
            long = len(argument) if isinstance(argument, str | bytes) else 0
            stack.append(items if items or name.startswith("EMPTY") else 1 + long // _PIECE)
            spelled += 1 + long // _PIECE
    _require_total([*stack, *below], int, spelled + MOST_SHARED)


def _require_total(root: Any, weigh: Callable[[Any], int], most: int) -> None:
    """Refuses a value that is more than `most` with all that it holds, as often as it holds it.

    Raises:
        ValueError: It is, or has too many levels.
    """
    # Container -> its total, and its levels; none while what it holds is looked at, and in itself.
    known: dict[int, tuple[int, int]] = {}
    work = [root]
    while work:
        value, parts = work[-1], _parts(work[-1])
        if parts is None or known.get(id(value), (0, 0))[1]:
            work.pop()
        elif id(value) not in known:
            known[id(value)] = 0, 0
            work += [part for part in parts if id(part) not in known]
        else:
            work.pop()
            inner = [known[id(p)] if _parts(p) is not None else (weigh(p), 0) for p in parts]
            total = 1 + sum(size for size, _ in inner)
            levels = 1 + max((level for _, level in inner), default=0)
            if total > most or levels > MOST_LEVELS:
                raise ValueError("it claims to hold far more than it is long")
            known[id(value)] = total, levels


def _parts(value: Any) -> list[Any] | None:
    """Returns what a container holds; None for what is none."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set) else None
