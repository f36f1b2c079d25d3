"""`report.html`: one file with everything in it, which asks nothing of anybody.

Its text is made here, every piece of it escaped; what moves is drawn by the scripts of the folder
`page` from one JSON document in the file. A policy in its head forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from training.tables import Section

_FILES = resources.files("training.reports") / "page"
_SCRIPTS = ("dom.js", "chart.js", "tables.js", "channels.js", "pictures.js")
_TAGS = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""In JSON these stand in strings alone: no script of the page can be ended by one."""
_NUMBER, _PROSE = 24, 34
"""Letters up to which a cell of numbers is one, and from which a column needs room."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The text of a page; backquotes mark code, two asterisks what is important.

    Attributes:
        verdict: What was found, a paragraph each.
        facts: What was measured, and by what command.
        first: Tables that belong to the verdict, right below it.
        tables: The others, folded.
        methods: What is counted, and how.
        notes: A remark for each part of the page that has something to say, by the part's name:
            `pictures`, `channels`, `confusion`.
    """

    title: str
    verdict: Sequence[str]
    facts: Sequence[str]
    first: Sequence[Section]
    tables: Sequence[Section]
    methods: Sequence[str]
    notes: Mapping[str, str]


def render(page: Page, data: Mapping[str, Any]) -> str:
    """Returns `report.html`; `data` is that of `training.reports.page_data`."""
    content = json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_TAGS)
    parts = ("pictures", "channels", "confusion")
    script = "\n".join(_read(name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_read("page.html")).substitute(
        title=escape(page.title),
        style=_read("page.css"),
        verdict="\n".join(f"<p>{inline(line)}</p>" for line in page.verdict),
        facts="\n".join(f"<p>{inline(line)}</p>" for line in page.facts),
        first="\n".join(table_html(section) for section in page.first),
        tables="\n".join(table_html(section, folded=True) for section in page.tables),
        methods="\n".join(f"<li>{inline(line)}</li>" for line in page.methods),
        data=content,
        script=script,
        script_hash=f"sha256-{digest}",
        **{f"{part}_note": inline(page.notes.get(part, "")) for part in parts},
    )


def table_html(section: Section, *, folded: bool = False) -> str:
    """Returns a section as HTML; empty without rows."""
    if not section.rows:
        return ""
    kinds = _kinds(section)
    head = "".join(
        f'<th scope="col"{kinds[i]}>{inline(cell)}</th>' for i, cell in enumerate(section.header)
    )
    rows = "\n".join(
        "<tr>" + "".join(f"<td{kinds[i]}>{inline(c)}</td>" for i, c in enumerate(row)) + "</tr>"
        for row in section.rows
    )
    notes = "".join(f"<p class=note>{inline(note)}</p>" for note in section.notes)
    table = (
        f'<div class=scroll tabindex=0 role=region aria-label="{escape(section.title)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{notes}"
    )
    if folded:
        return f"<details><summary>{inline(section.title)}</summary>{table}</details>"
    return f"<section><h2>{inline(section.title)}</h2>{table}</section>"


def inline(text: str) -> str:
    """Returns text escaped, with code and emphasis."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _kinds(section: Section) -> list[str]:
    """Returns an attribute for the cells of each column: numbers to the right, room for prose."""
    widths = [max(len(row[i]) for row in section.rows) for i in range(len(section.header))]
    return [
        " class=number"
        if i >= section.text_columns and width <= _NUMBER
        else (" class=long" if width > _PROSE else "")
        for i, width in enumerate(widths)
    ]


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
