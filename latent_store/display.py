"""The way in which a store's objects show themselves, as text and in notebooks: what each is, in a
line, and sections of what is in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape

from latent_store.errors import LatentStoreError, public_text

Sections = dict[str, dict[str, str]]
"""By title, what is in a section: a name and a few words each."""
_CELL = "style='text-align:left;padding:0 1.5em 0 1em'"
_MOST = 20
"""Lines of a section of which the text shows all; of more it shows the first and the last."""


class Shown(ABC):
    """Something that says what it is and what is in it, in the manner of xarray."""

    @abstractmethod
    def _headline(self) -> str:
        """Returns what it is, in one line."""

    @abstractmethod
    def _sections(self) -> Sections:
        """Returns what is in it; what cannot be read may raise."""

    def __repr__(self) -> str:
        headline, sections = self._readable()
        lines = [f"<{self._title}> {headline}"]
        for title, rows in sections.items():
            width = max(map(len, rows), default=0)
            lines += [f"{title}:" + ("" if rows else " none")]
            shown = [f"    {name:<{width}}  {words}".rstrip() for name, words in rows.items()]
            if len(shown) > _MOST:
                shown[_MOST // 2 : -_MOST // 2] = [f"    ... ({len(shown)} in all)"]
            lines += shown
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        headline, sections = self._readable()
        parts = [f"<div><strong>{escape(self._title)}</strong> {escape(headline)}"]
        for title, rows in sections.items():
            cells = "".join(
                f"<tr><td {_CELL}>{escape(name)}</td><td {_CELL}>{escape(words)}</td></tr>"
                for name, words in rows.items()
            )
            if not rows:
                parts.append(f"<div>{escape(title)}: none</div>")
                continue
            state = " open" if len(rows) <= _MOST else ""
            parts.append(
                f"<details{state}><summary>{escape(title)} ({len(rows)})</summary>"
                f"<table>{cells}</table></details>"
            )
        return "".join([*parts, "</div>"])

    @property
    def _title(self) -> str:
        return f"latent_store.{type(self).__name__}"

    def _readable(self) -> tuple[str, Sections]:
        headline = ""
        try:
            headline = self._headline()
            return headline, self._sections()
        except Exception as error:  # noqa: BLE001 - what shows itself in a traceback raises nothing
            said = str(error) if isinstance(error, LatentStoreError | OSError) else repr(error)
            return headline, {"unreadable": {public_text(said): ""}}
