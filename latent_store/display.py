"""The way in which a store's objects show themselves, as text and in notebooks: what each is, in a
line, and sections of what is in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape

from latent_store.errors import LatentStoreError

Sections = dict[str, dict[str, str]]
"""By title, what is in a section: a name and a few words each."""
_MOST = 12
"""Lines of a section of which the text shows all; of more it shows the first and the last."""


class Shown(ABC):
    """Something that says what it is and what is in it, in the manner of xarray."""

    @abstractmethod
    def _headline(self) -> str:
        """Returns what it is, in one line."""

    @abstractmethod
    def _sections(self) -> Sections:
        """Returns what is in it; what cannot be read may raise a `LatentStoreError`."""

    def __repr__(self) -> str:
        lines = [f"<{self._title}> {self._headline()}"]
        for title, rows in self._readable().items():
            width = max(map(len, rows), default=0)
            lines += [f"{title}:" + ("" if rows else " none")]
            shown = [f"    {name:<{width}}  {words}".rstrip() for name, words in rows.items()]
            if len(shown) > _MOST:
                shown[_MOST // 2 : -_MOST // 2] = [f"    ... ({len(shown)} in all)"]
            lines += shown
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [f"<div><strong>{escape(self._title)}</strong> {escape(self._headline())}"]
        for title, rows in self._readable().items():
            cells = "".join(
                f"<tr><td style='text-align:left'>{escape(name)}</td>"
                f"<td style='text-align:left'>{escape(words)}</td></tr>"
                for name, words in rows.items()
            )
            state = " open" if len(rows) <= _MOST else ""
            parts.append(
                f"<details{state}><summary>{escape(title)} ({len(rows)})</summary>"
                f"<table>{cells}</table></details>"
            )
        return "".join([*parts, "</div>"])

    @property
    def _title(self) -> str:
        return f"latent_store.{type(self).__name__}"

    def _readable(self) -> Sections:
        try:
            return self._sections()
        except (LatentStoreError, OSError) as error:
            return {"unreadable": {str(error): ""}}
