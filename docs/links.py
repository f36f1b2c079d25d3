"""Links of pages that lie elsewhere in the tree: to the page here, or to the file's name alone."""

import posixpath
import re
from typing import Any

HOMES = {
    "index.md": "README.md",
    "format.md": "latent_store/FORMAT.md",
    "measurements.md": "latent_store/MEASUREMENTS.md",
    "results.md": "training/experiments/RESULTS.md",
    "benchmarks.md": "tests/benchmarks/TABLE.md",
}
"""Page -> the file that it shows."""
_PAGES = {home: page for page, home in HOMES.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_INCLUDED = re.compile(r'--8<-- "([^"]+)"')


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """Returns a page's text with links that work from where it is shown."""
    where = page.file.src_uri
    home = HOMES.get(where, f"docs/{where}")
    text = _INCLUDED.sub(lambda found: _read(found[1]), markdown)
    return _LINK.sub(lambda found: _moved(found, home, files), text)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the working directory is the tree's
        return file.read()


def _moved(found: re.Match[str], home: str, files: Any) -> str:
    mark, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    if "://" in target or target.startswith("mailto:"):
        return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
    if path in _PAGES:
        return f"[{text}]({_PAGES[path]}{anchor})"
    if path.startswith("docs/") and files.get_file_from_path(path.removeprefix("docs/")):
        return f"{mark}[{text}]({path.removeprefix('docs/')}{anchor})"
    return f"*{text}*" if mark else f"{text} (`{path}`)"
