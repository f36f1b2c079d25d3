"""Loads codecs: from CompressAI's zoo, a checkpoint file, a store, or the packaged demo.

A checkpoint's sha256 is compared with the one that its name or its source promises, since
CompressAI does not: other weights give plausible latents that nobody else can decode.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import string
import sys
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError

import torch

from latent_store.codec import stock
from latent_store.codec.families.base import CodecFamily
from latent_store.codec.families.registry import DEFAULT_ARCHITECTURE, find_family
from latent_store.codec.hyperprior import ID_DIGITS, Codec
from latent_store.errors import CheckpointError, IdentityError
from latent_store.format.schema import CodecSpec

HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth\.tar$")
DEMO_FOLDER = Path(__file__).parent / "demo"
"""Package data: one checkpoint, trained on generated pictures alone."""


class CodecStore(Protocol):
    """A store that keeps codecs, such as `latent_store.LatentStore`."""

    def codec(self, codec_id: str | None = None) -> CodecSpec:
        """Returns the codec of that id; without one the only codec."""

    def codec_checkpoint(self, codec_id: str) -> bytes:
        """Returns the bytes of a codec's checkpoint file."""


def load_codec(
    *,
    checkpoint: str | Path | None = None,
    quality: int | None = None,
    metric: str = "mse",
    architecture: str = DEFAULT_ARCHITECTURE,
    demo: bool = False,
    sha256: str | None = None,
) -> Codec:
    """Returns a codec from exactly one of the three sources.

    Args:
        checkpoint: A local checkpoint file. Where its name ends in `-xxxxxxxx.pth.tar`, the
            digits must be the start of its sha256.
        quality: 1 to 8: CompressAI's zoo, downloaded once into torch.hub's cache.
        metric: Of the zoo: `"mse"` or `"ms-ssim"`.
        architecture: Of the zoo; what other checkpoints are is seen in them.
        demo: The small codec that comes with the package.
        sha256: The file's sha256, or at least its first 8 digits.

    Raises:
        CheckpointError: No source or several; a file that is missing, truncated, of another
            hash or another architecture, or without entropy tables.
    """
    sources = {"checkpoint": checkpoint is not None, "quality": quality is not None, "demo": demo}
    given = [name for name, is_given in sources.items() if is_given]
    if len(given) != 1:
        raise CheckpointError(
            f"a codec comes from one source, got {', '.join(given) or 'none'}; give one of "
            "`codec_checkpoint=F`, `quality=Q`, `demo_codec=`"
        )
    if quality is not None:
        data = _zoo_bytes(find_family(architecture, "the codec asked for"), quality, metric)
        name = f"the zoo's quality {quality}"
        _check_sha256(data, sha256, name)
        return _build(data, name, source="zoo", quality=quality, metric=metric)
    path = _demo_path(DEMO_FOLDER) if demo else Path(checkpoint or "")
    data = _read(path)
    _check_sha256(data, sha256, str(path))
    promised = HASHED_NAME.search(path.name)
    if promised:
        _check_sha256(data, promised[1], f"{path}, by its name,")
    return _build(data, str(path), source="demo" if demo else "file")


def codec_from_bytes(
    data: bytes, *, expected: CodecSpec | None = None, source: str = "file"
) -> Codec:
    """Returns a codec from the bytes of its checkpoint file.

    Args:
        data: The file.
        expected: The identity that it must have; gives the name, source, quality and metric too.
        source: What `spec.source` says without `expected`: `"file"`, `"zoo"`, `"demo"`.

    Raises:
        IdentityError: It is not the codec expected, or has other steps.
        CheckpointError: As `load_codec`.
    """
    if expected is None:
        return _build(data, "the checkpoint", source=source)
    digest = hashlib.sha256(data).hexdigest()
    # The hash first: weights that are not the expected ones need no other message.
    expected.require_identity({**expected.identity, "weights_sha256": digest}, "the checkpoint")
    find_family(expected.architecture, expected.codec_id)
    origin = {name: getattr(expected, name) for name in ("source", "quality", "metric")}
    codec = _build(data, expected.codec_id, **origin)
    expected.require_identity(codec.spec.identity, "the checkpoint")
    if codec.spec.y_hat_steps != expected.y_hat_steps:
        raise IdentityError(
            f"{expected.codec_id} is noted with {expected.y_hat_steps} y_hat_steps, and its kind, "
            f"{codec.family.name}, has {codec.spec.y_hat_steps}: every ŷ would be wrong by a "
            "factor; restore the codec's attributes, or encode again"
        )
    return codec


def codec_from_store(store: CodecStore, codec_id: str | None = None) -> Codec:
    """Returns a codec whose checkpoint a store keeps: the only one, or the one of that id.

    Raises:
        MissingComponentError: There is none of that id, or there are several.
        IdentityError: The file kept is not the codec that wrote the latents.
    """
    spec = store.codec(codec_id)
    return codec_from_bytes(store.codec_checkpoint(spec.codec_id), expected=spec)


def _build(data: bytes, name: str, **origin: Any) -> Codec:
    codec = Codec.from_checkpoint(data, name)
    codec.spec = dataclasses.replace(codec.spec, **origin)
    return codec


def _read(path: Path) -> bytes:
    if not path.is_file():  # a device or a pipe may have no end
        raise CheckpointError(f"there is no codec checkpoint {path}; check `codec_checkpoint=`")
    return path.read_bytes()


def _check_sha256(data: bytes, expected: str | None, what: str) -> None:
    if expected is None:
        return
    if len(expected) < ID_DIGITS or not set(expected.lower()) <= set(string.hexdigits):
        raise CheckpointError(
            f"{expected!r} is no sha256; give at least its first {ID_DIGITS} digits"
        )
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(expected.lower()):
        found = digest[: len(expected)]
        raise CheckpointError(
            f"{what} should have sha256 {expected}, but its {len(data)} bytes have {found}; it was "
            "altered, truncated or renamed: copy or download it again"
        )


def _zoo_bytes(family: CodecFamily, quality: int, metric: str) -> bytes:
    prefixes = family.zoo_sha256.get(metric)
    if prefixes is None or not 1 <= quality <= len(prefixes):
        raise CheckpointError(
            f"CompressAI's zoo has {family.name} in qualities 1 to 8 for mse and ms-ssim, not "
            f"quality {quality} for {metric}; choose one of these"
        )
    url: str = stock.model_urls[family.name][metric][quality]
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
            f"cannot download {url} ({error}); give a local file with "
            "`codec_checkpoint=`, or `demo_codec=`"
        ) from error


def _demo_path(folder: Path) -> Path:
    found = [path for path in folder.glob("*.pth.tar") if HASHED_NAME.search(path.name)]
    if len(found) != 1:
        raise CheckpointError(
            f"{folder} holds {len(found)} demo codecs, expected 1 (*-xxxxxxxx.pth.tar); install "
            "the package again"
        )
    return found[0]
