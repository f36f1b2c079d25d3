"""The documentation site: it builds without a warning, and asks nobody for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ASKED = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']+"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; every broken link and every name that is not there would end it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_reference_has_public_names_with_their_shapes(site: Path) -> None:
    stores = (site / "reference/latent_store.html").read_text()
    assert 'id="latent_store.open"' in stores
    assert 'id="latent_store.store.Split' in stores
    assert 'id="latent_store.torch.IterableDataset"' in (site / "reference/torch.html").read_text()


def test_pages_from_elsewhere_lead_to_pages_of_the_site(site: Path) -> None:
    start = (site / "index.html").read_text()
    assert 'href="own_data.html"' in start
    assert 'href="format.html"' in start
    assert "One stream, every rate" in start


def test_no_page_asks_a_server(site: Path) -> None:
    asked = {f: ASKED.findall(f.read_text()) for f in site.rglob("*.html")}
    assert len(asked) > 10
    own = '<link rel="canonical"'
    assert {f: a for f, a in asked.items() if [x for x in a if not x.startswith(own)]} == {}
