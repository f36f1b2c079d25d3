"""Checkpoint files: plain tensors and plain types, loaded with `weights_only=True`.

A network's file holds everything that `segment` and `evaluate-from-store` need besides a store:
config, weights, what the run was, and the codec's own checkpoint file as a uint8 tensor. The same
content gives the same bytes, so that a file's sha256 names what is in it.
"""

import dataclasses
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from latent_store.codec.pickles import load_pickle, require_held
from latent_store.codec.state_dicts import refused_type
from latent_store.errors import CheckpointError, IntegrityError, LatentStoreError
from latent_store.storage import records
from latent_store.storage.local_files import write_atomically
from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.networks.networks import Network
from training.tasks.registry import build_network, find_task

FORMAT = "latent-store-network"
FORMAT_VERSION = 1
KINDS = ("teacher", "network")
DIGEST = "content_sha256"
"""Entry of a file that holds the `content_sha256` of the rest; earlier versions wrote none."""
_DAMAGED = (
    *(RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, LookupError),
    *(TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError),
)
"""Errors that torch raises for a damaged file."""
_REMEDY = "copy the file again, or train again"


@dataclass(frozen=True, kw_only=True)
class Meta:
    """A run as a network's file tells of it; what was trained without a store has no codec."""

    kind: Literal["teacher", "network"] = "network"
    dataset: str | None = None
    codec_id: str | None = None
    codec_identity: dict[str, str] | None = None
    ranking_id: str | None = None
    channels: list[int] | None = None
    teacher_id: str | None = None
    class_names: list[str] | None = None
    label: str | None = None
    train: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0


_META_DEFAULTS = vars(Meta())


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A network read from a checkpoint file.

    Attributes:
        network: In evaluation mode.
        meta: The fields of `Meta`.
        codec_bytes: The codec's checkpoint file; None for a network trained without a store.
        sha256: Of the file.
    """

    network: Network
    config: NetworkConfig
    meta: dict[str, Any]
    codec_bytes: bytes | None
    sha256: str

    @property
    def teacher_id(self) -> str:
        """The id under which a store keeps this teacher's features."""
        prefix = find_task(self.config.task).teacher_prefix
        return f"{prefix}-{find_backbone(self.config.backbone).short_name}-{self.sha256[:8]}"


def save_checkpoint(
    path: str | Path, network: Network, *, meta: Mapping[str, Any], codec_bytes: bytes | None = None
) -> str:
    """Writes a network's checkpoint file atomically, into a folder that exists.

    Args:
        meta: See `LoadedNetwork`; left-out entries get defaults, `kind` must be a known one.
        codec_bytes: The codec's checkpoint file.

    Returns:
        The sha256 of the file.

    Raises:
        CheckpointError: If `meta` has an unknown entry or kind.
    """
    meta = _META_DEFAULTS | dict(meta)
    if set(meta) != set(_META_DEFAULTS) or meta["kind"] not in KINDS:
        raise CheckpointError(
            f"a checkpoint's meta has the entries {', '.join(_META_DEFAULTS)} and kind "
            f"{' or '.join(KINDS)}; got {', '.join(meta)} and kind {meta['kind']!r}"
        )
    codec = np.frombuffer(codec_bytes or b"", dtype=np.uint8).copy()
    payload = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": network.config.to_dict(),
        "meta": json.loads(json.dumps(meta)),
        "state": state_on_cpu(network),
        "codec_weights": None if codec_bytes is None else torch.from_numpy(codec),
    }
    return write_payload(path, payload)


def load_network(
    source: str | Path | bytes, map_location: str | torch.device = "cpu", *, kind: str | None = None
) -> LoadedNetwork:
    """Reads a network's checkpoint file.

    Args:
        source: Path, or the file's bytes.
        kind: One of `KINDS` where only that will do.

    Raises:
        CheckpointError: If the file does not exist, is truncated, is not one of ours, comes from
            a newer version, is of another kind, or its weights do not fit its config.
    """
    data = source if isinstance(source, bytes) else read_file(source)
    name = "the given bytes" if isinstance(source, bytes) else str(source)
    payload = parse(data, name, expected_format=FORMAT, map_location=map_location)
    try:
        meta = dataclasses.asdict(records.typed(Meta, payload.get("meta"), "its meta", _REMEDY))
        if kind is not None and meta["kind"] != kind:
            made_by = {"teacher": "train-teacher", "network": "train-from-store"}
            raise CheckpointError(
                f"{name} holds a {meta['kind']}, but a {kind} is needed here: give a file that "
                f"{made_by[kind]} wrote"
            )
        config = NetworkConfig.from_dict(payload["config"])
        _require_room(config, payload["state"], name)
        with torch.random.fork_rng(devices=[]):  # nobody's random numbers are moved by reading
            network = build_network(config).to(map_location)
        network.load_state_dict(payload["state"])
        weights = payload.get("codec_weights")
        codec_bytes = None if weights is None else weights.cpu().numpy().tobytes()
    except IntegrityError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except LatentStoreError:
        raise
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [""])[-1].strip()[:200]
        raise CheckpointError(
            f"{name}: the weights do not fit the architecture that the file itself names; it is "
            f"damaged or was edited ({type(error).__name__}: {reason})"
        ) from error
    return LoadedNetwork(
        network=network.eval(),
        config=config,
        meta=meta,
        codec_bytes=codec_bytes,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _require_room(config: NetworkConfig, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuses to build a network far larger than its weights: each width is met with itself."""
    held = sum(tensor.numel() for tensor in state.values())
    # Those of other tasks have their defaults, and nothing is built of them.
    own = find_task(config.task).fields
    widest = max((getattr(config, field) for field in own if field.endswith("_width")), default=0)
    if widest**2 > held:
        raise CheckpointError(
            f"{name} names layers of {widest} channels but holds {held} numbers in all; {_REMEDY}"
        )


def export_safetensors(path: str | Path, network: Network, *, meta: Mapping[str, Any]) -> None:
    """Writes the weights as `.safetensors`; config, meta and a digest stand in its header."""
    from safetensors.torch import save  # only an export needs it

    config = json.dumps(network.config.to_dict())
    header = {"format": "pt", "config": config, "meta": json.dumps(dict(meta))}
    state = state_on_cpu(network)
    header[DIGEST] = content_sha256({"header": header, "state": state})
    write_atomically(Path(path), save(state, metadata=header))


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Reads `export_safetensors`: the state dict, and the header's `config` and `meta` as JSON.

    Raises:
        CheckpointError: If it is no such file, or was altered, see `require_whole`.
    """
    from safetensors import SafetensorError, safe_open

    read_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, *_DAMAGED) as error:
        raise CheckpointError(
            f"{path} is no safetensors file ({error}); export it again"
        ) from error
    require_whole({"header": header, "state": state}, header.pop(DIGEST, None), str(path))
    return state, header


def state_on_cpu(module: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the state dict, a compiled module's too, as contiguous CPU tensors of its own."""
    inner: nn.Module = getattr(module, "_orig_mod", module)
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in inner.state_dict().items()
    }


def write_payload(path: str | Path, payload: Mapping[str, Any]) -> str:
    """Saves `payload` with a digest over it, so that `path` holds the old file or the new one.

    Returns:
        The sha256 of the file.
    """
    content = {name: value for name, value in payload.items() if name != DIGEST}
    # Through memory: torch.save writes the file's own name into the archive, and equal content
    # shall give equal bytes.
    buffer = io.BytesIO()
    torch.save({**content, DIGEST: content_sha256(content)}, buffer)
    data = buffer.getvalue()
    write_atomically(Path(path), data)
    return hashlib.sha256(data).hexdigest()


def read_file(path: str | Path) -> bytes:
    """Returns a checkpoint file's bytes.

    Raises:
        CheckpointError: If there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file at {path}: check the path")
    return path.read_bytes()


def is_network(path: str | Path) -> bool:
    """Says whether a file is one that `save_checkpoint` wrote, and no foreign state dict."""
    payload = unpack(read_file(path), str(path))
    return isinstance(payload, dict) and payload.get("format") == FORMAT


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a foreign checkpoint, e.g. torchvision's; `weights_only=True`.

    Raises:
        CheckpointError: If there is no such file, or it is no state dict.
    """
    payload = unpack(read_file(path), str(path))
    for key in ("model", "state_dict"):
        payload = payload.get(key, payload) if isinstance(payload, dict) else payload
    tensors = payload if isinstance(payload, dict) else {}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: give a state dict saved with torch.save")
    return tensors


def parse(
    data: bytes, name: str, *, expected_format: str, map_location: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Unpacks a file that `write_payload` wrote.

    Raises:
        CheckpointError: If it is truncated, foreign, of another format, from a newer version, or
            altered.
    """
    payload = unpack(data, name, map_location)
    entries = payload if isinstance(payload, dict) else {}
    found = entries.get("format")
    if found != expected_format:
        codec = any(str(key).startswith("g_a.") for key in entries)
        hint = "weights of a codec go to --codec_checkpoint, " if codec else ""
        raise CheckpointError(
            f"{name} is not a {expected_format} file (its format is {found!r:.40}): {hint}give a "
            "file that train-from-store or train-teacher wrote"
        )
    version = payload.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{name} has format version {version}, this version reads up to {FORMAT_VERSION}: "
            "update the package"
        )
    require_whole(payload, payload.pop(DIGEST, None), name)
    return payload


def content_sha256(content: Any) -> str:
    """Returns the sha256 over tensors and plain values, however deep; the order of names is none.

    Neither torch's files nor safetensors notice a flipped bit in a weight.

    Raises:
        RecursionError: If it holds itself.
    """
    digest = hashlib.sha256()
    _add_to(digest, content)
    return digest.hexdigest()


def _add_to(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\n".encode())
        for name in sorted(value, key=repr):
            digest.update(f"{name!r}\n".encode())
            _add_to(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for item in value:
            _add_to(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r}\n".encode())


def require_whole(content: Any, expected: str | None, name: str) -> None:
    """Refuses content that differs from the digest beside it; without one, content is believed."""
    try:
        found = None if expected is None else content_sha256(content)
    except (RecursionError, *_DAMAGED) as error:
        found = f"none ({type(error).__name__})"
    if found != expected:
        raise CheckpointError(
            f"{name} was altered: its content has the sha256 {str(found)[:8]}, not the "
            f"{str(expected)[:8]} that was written; copy the file again, or train again"
        )


def unpack(data: bytes, name: str, map_location: str | torch.device = "cpu") -> Any:
    """Returns what `torch.save` wrote, if that is tensors and plain types.

    Raises:
        CheckpointError: It is truncated, no checkpoint, packed, or holds more than that.
    """
    try:
        content = load_pickle(data, map_location)
        require_held(content, len(data))
        return content
    except (zipfile.BadZipFile, *_DAMAGED) as error:
        if refused := refused_type(error):
            raise CheckpointError(
                f"{name} holds {refused} beside tensors, and objects are not loaded; save the "
                "model's state dict alone"
            ) from error
        raise CheckpointError(
            f"{name} cannot be read as a checkpoint ({len(data)} bytes): it is truncated, or not "
            "written by torch.save, or holds more than tensors and plain types, which is not "
            f"loaded ({type(error).__name__})"
        ) from error
