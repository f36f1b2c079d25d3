"""`python -m training.experiments.device.needs`: one line of all packages that a machine lacks.

It is run before the rest, so it needs none of them itself: a machine's time is short, and a command
that fails at its first import says nothing of the others.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable

MODULES = (
    "torch", "torchvision", "numpy", "scipy", "pandas", "pyarrow", "fsspec", "safetensors",
    "tensorboard", "matplotlib", "PIL", "tqdm", "einops", "torch_geometric", "grpc",
    "google.protobuf", "yaml", "requests", "dateutil", "packaging", "apache_beam", "beartype",
    "bjontegaard", "cffi", "compressai", "cryptography", "donfig", "fastavro", "fasteners",
    "google_crc32c", "httplib2", "jsonpickle", "msgspec", "numcodecs", "objsize", "proto",
    "pycocotools", "pycparser", "pymongo", "dns", "pytorch_msssim", "pytz", "sortedcontainers",
    "zarr", "zstandard",
)  # fmt: skip
"""Those that are taken for granted, and those of lacking.txt."""


def missing(names: Iterable[str]) -> list[str]:
    """Returns what cannot be imported of some modules and of what they import, each once."""
    found: dict[str, None] = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            found[error.name or f"{name} ({error})"] = None
    return list(found)


def main() -> int:
    """Runs the command; returns its exit status."""
    lacks = missing(MODULES)
    if lacks:
        sys.stderr.write(f"needs: missing here: {', '.join(lacks)}; carry them as wheels\n")
    return int(bool(lacks))


if __name__ == "__main__":
    sys.exit(main())
