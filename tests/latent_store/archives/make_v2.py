"""Made the archived store of format version 1.3 whose latents have version 2.0: ŷ in steps.

    python -m tests.latent_store.archives.make_v2

It has what the archive of version 1.0 has, by two codecs of mean and scale hyperpriors.
"""

from __future__ import annotations

from pathlib import Path

from tests.latent_store.archives.make_v1 import write_archive

ARCHIVE = Path(__file__).with_name("v2.zarr.zip")
EXPECTED = Path(__file__).with_name("v2.expected.json")
CODECS = ((4, 24), (4, 20))
"""N and M of the codecs."""

if __name__ == "__main__":
    write_archive(ARCHIVE, EXPECTED, sizes=CODECS, architecture="mbt2018-mean")
