"""Made the archived store of format version 2.0: plans in parts.

    python -m tests.latent_store.archives.make_v3

It has what the archive of version 1.0 has, by two smaller codecs.
"""

from __future__ import annotations

from pathlib import Path

from tests.latent_store.archives.make_v1 import write_archive

ARCHIVE = Path(__file__).with_name("v3.zarr.zip")
EXPECTED = Path(__file__).with_name("v3.expected.json")
CODECS = ((4, 24), (4, 20))
"""N and M of the codecs."""

if __name__ == "__main__":
    write_archive(ARCHIVE, EXPECTED, sizes=CODECS)
