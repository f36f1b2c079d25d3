"""Where codecs come from: CompressAI's zoo, a checkpoint file, a store, or the packaged demo.

A checkpoint's sha256 is compared with the one that its name or its source promises, since
CompressAI does not: other weights give plausible latents that nobody else can decode.
"""

from __future__ import annotations

import hashlib
import re
import string
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch

from latent_store.codec.hyperprior import Codec
from latent_store.codec.state_dicts import ARCHITECTURE, build_model, read_state_dict
from latent_store.codec.stock import model_urls
from latent_store.codec.tables import EntropyTables
from latent_store.errors import CheckpointError, IntegrityError
from latent_store.format.schema import CodecSpec

if TYPE_CHECKING:
    from latent_store import LatentStore

ZOO_SHA256 = {
    "mse": (
        "7eb97409", "93677231", "6d87be32", "de1b779c",
        "f8b614e1", "1ab9c41e", "3804dcbd", "a583f0cf",
    ),
    "ms-ssim": (
        "5cf249be", "1ff60d1f", "92dd7878", "4377354e",
        "c34afc8d", "3a6d8229", "8747d3bc", "cc15b5f3",
    ),
}  # fmt: skip
"""First digits of the sha256 of the zoo's checkpoints, qualities 1 to 8, by metric."""
HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth\.tar$")
PREFIX_DIGITS = 8
DEMO_FOLDER = Path(__file__).parent / "demo"
"""Package data: one checkpoint, trained on generated pictures alone."""


def load_codec(
    *,
    checkpoint: str | Path | None = None,
    quality: int | None = None,
    metric: str = "mse",
    demo: bool = False,
    sha256: str | None = None,
) -> Codec:
    """Returns a codec from exactly one of the three sources.

    Args:
        checkpoint: A local checkpoint file. Where its name ends in `-xxxxxxxx.pth.tar`, the
            digits must be the start of its sha256.
        quality: 1 to 8: CompressAI's zoo, downloaded once into torch.hub's cache.
        metric: Of the zoo: `"mse"` or `"ms-ssim"`.
        demo: The small codec that comes with the package.
        sha256: The file's sha256, or at least its first 8 digits.

    Raises:
        CheckpointError: No source or several; a file that is missing, truncated, of another
            hash or another architecture, or without entropy tables.
    """
    sources = [checkpoint is not None, quality is not None, demo]
    if sum(sources) != 1:
        given = ", ".join(
            name
            for name, is_given in zip(("checkpoint", "quality", "demo"), sources, strict=True)
            if is_given
        )
        raise CheckpointError(
            f"a codec comes from one source, got {given or 'none'}; give one of --codec_checkpoint "
            "F, --quality Q, --demo_codec"
        )
    if quality is not None:
        data = _zoo_bytes(quality, metric)
        _check_sha256(data, sha256, f"the zoo's quality {quality}")
        return _build(data, f"the zoo's quality {quality}", "zoo", quality, metric)
    path = _demo_path(DEMO_FOLDER) if demo else Path(checkpoint or "")
    data = _read(path)
    _check_sha256(data, sha256, str(path))
    _check_name(data, path)
    return _build(data, str(path), "demo" if demo else "file")


def codec_from_bytes(
    data: bytes, *, expected: CodecSpec | None = None, source: str = "file"
) -> Codec:
    """Returns a codec from the bytes of its checkpoint file.

    Args:
        data: The file.
        expected: The identity that it must have; gives the name, source, quality and metric too.
        source: What `spec.source` says without `expected`: `"file"`, `"zoo"`, `"demo"`.

    Raises:
        IdentityError: It is not the codec expected.
        CheckpointError: As `load_codec`.
    """
    name = expected.codec_id if expected else "the checkpoint"
    if expected is None:
        return _build(data, name, source)
    digest = hashlib.sha256(data).hexdigest()
    # The hash first: weights that are not the expected ones need no other message.
    expected.require_identity({**expected.identity, "weights_sha256": digest}, "the checkpoint")
    codec = _build(data, name, expected.source, expected.quality, expected.metric)
    expected.require_identity(codec.spec.identity, "the checkpoint")
    return codec


def codec_from_store(store: LatentStore, codec_id: str | None = None) -> Codec:
    """Returns a codec whose checkpoint a store keeps: the only one, or the one of that id.

    Raises:
        MissingComponentError: There is none of that id, or there are several.
        IdentityError: The file kept is not the codec that wrote the latents.
    """
    spec = store.codec(codec_id)
    return codec_from_bytes(store.codec_checkpoint(spec.codec_id), expected=spec)


def _build(
    data: bytes, name: str, source: str, quality: int | None = None, metric: str | None = None
) -> Codec:
    model = build_model(read_state_dict(data, name), name)
    try:
        tables = EntropyTables.from_model(model)
    except IntegrityError as error:
        raise CheckpointError(f"{name}: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    spec = CodecSpec(
        codec_id=f"{ARCHITECTURE}-{digest[:PREFIX_DIGITS]}",
        architecture=ARCHITECTURE,
        weights_sha256=digest,
        cdf_sha256=tables.sha256,
        channels=model.M,
        hyper_channels=model.N,
        source=source,
        quality=quality,
        metric=metric,
    )
    return Codec(spec=spec, model=model, tables=tables, checkpoint=data)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise CheckpointError(
            f"there is no codec checkpoint {path}; check --codec_checkpoint"
        ) from error


def _check_name(data: bytes, path: Path) -> None:
    promised = HASHED_NAME.search(path.name)
    if promised:
        _check_sha256(data, promised[1], f"{path}, by its name,")


def _check_sha256(data: bytes, expected: str | None, what: str) -> None:
    if expected is None:
        return
    if len(expected) < PREFIX_DIGITS or not set(expected.lower()) <= set(string.hexdigits):
        raise CheckpointError(
            f"{expected!r} is no sha256; give at least its first {PREFIX_DIGITS} digits"
        )
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(expected.lower()):
        found = digest[: len(expected)]
        raise CheckpointError(
            f"{what} should have sha256 {expected}, but its {len(data)} bytes have {found}; it was "
            "altered, truncated or renamed: copy or download it again"
        )


def _zoo_bytes(quality: int, metric: str) -> bytes:
    prefixes = ZOO_SHA256.get(metric)
    if prefixes is None or not 1 <= quality <= len(prefixes):
        raise CheckpointError(
            f"CompressAI's zoo has {ARCHITECTURE} in qualities 1 to 8 for mse and ms-ssim, not "
            f"quality {quality} for {metric}; choose one of these"
        )
    url: str = model_urls[ARCHITECTURE][metric][quality]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not cached.exists():
        _download(url, cached, prefixes[quality - 1])
    data = cached.read_bytes()
    _check_sha256(data, prefixes[quality - 1], f"{cached} (delete it to download it again)")
    return data


def _download(url: str, target: Path, prefix: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(target), prefix, progress=sys.stderr.isatty())
    except RuntimeError as error:
        raise CheckpointError(
            f"{url} is not the file with sha256 {prefix}: {error}; try again later"
        ) from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise CheckpointError(
            f"cannot download {url} ({error}); give a local file with --codec_checkpoint, or "
            "--demo_codec"
        ) from error


def _demo_path(folder: Path) -> Path:
    found = sorted(folder.glob("*.pth.tar"))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder} holds {len(found)} demo codecs, expected 1 (*-xxxxxxxx.pth.tar); install "
            "the package again"
        )
    if not HASHED_NAME.search(found[0].name):
        raise CheckpointError(
            f"the demo codec {found[0].name} has no sha256 in its name; install it again"
        )
    return found[0]
