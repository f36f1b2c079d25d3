"""Made the archived store of format version 1.0, and what reading it must give.

    python -m tests.latent_store.archives.make_v1

The store is that of `made_store`: labels, features, latents of two made codecs, a ranked copy,
an append, a mended row, a void row. It was written once and stays as it is: every later reader
must give the same arrays from it. A later version of the format gets an archive of its own.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import latent_store
from tests.latent_store.made_store import make_store
from tests.latent_store.readings import contents, digest, read_component

ARCHIVE = Path(__file__).with_name("v1.zarr.zip")
EXPECTED = Path(__file__).with_name("v1.expected.json")
_LONG_AGO = (2000, 1, 1, 0, 0, 0)


def write_archive(archived: Path, expected: Path, **made: Any) -> None:
    """Writes an archive of `make_store(..., **made)` and what is expected of it, but not twice."""
    if archived.exists():
        raise SystemExit(f"{archived.name} is there; an archived store is not made again")
    with tempfile.TemporaryDirectory() as folder:
        url = make_store(Path(folder), **made)
        with zipfile.ZipFile(archived, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(p for p in url.rglob("*") if p.is_file()):
                if "leases" not in path.parts:
                    info = zipfile.ZipInfo(str(path.relative_to(url)), _LONG_AGO)
                    archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
        expected.write_text(json.dumps(digests(url), indent=1) + "\n")


def digests(url: Path) -> dict[str, str]:
    """Returns the digest of every array and byte string that a store gives, by name."""
    store = latent_store.open(url)
    found = {}
    for name, keys in contents(url).items():
        split = store[name]
        rows = split.index["row"].to_pylist()
        found[f"{name} samples"] = digest(list(zip(rows, split.sample_ids(rows), strict=True)))
        found[f"{name} sizes"] = digest(split.sizes(rows))
        for key in keys:
            for what, value in read_component(split, key):
                if isinstance(value, np.ndarray | bytes):
                    found[f"{name}/{key} {what}"] = digest(value)
    for codec_id in store.codecs():
        for name, table in store.codec_tables(codec_id).items():
            found[f"{codec_id} {name}"] = digest(table)
        for ranking_id in store.rankings(codec_id):
            ranking = store.ranking(codec_id, ranking_id)
            known = [ranking.order, ranking.cuts, ranking.score]
            found[f"{codec_id} {ranking_id}"] = digest(known)
    return found


if __name__ == "__main__":
    write_archive(ARCHIVE, EXPECTED)
