"""Tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def align(rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Returns rows in columns: a rule below the header, numbers to the right.

    Args:
        rows: Header first; all of one length.
        text_columns: How many columns, from the left, hold text and stand to the left.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of a report, in whatever the report is written in.

    Attributes:
        title: Its heading.
        header: Heads of the columns.
        rows: Of as many cells each; a section without any is left out.
        text_columns: As of `align`.
        notes: Paragraphs below the table; backquotes mark code.
        figure: File name of a picture that stands below it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int
    notes: tuple[str, ...] = ()
    figure: str | None = None

    def markdown(self) -> str:
        """Returns the section in Markdown; empty without rows."""
        if not self.rows:
            return ""
        table = markdown_table(self.header, self.rows, self.text_columns)
        figure = [f"![]({self.figure})"] if self.figure else []
        return "\n\n".join([f"## {self.title}", table, *figure, *self.notes])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Returns a Markdown table whose first `text_columns` columns stand to the left."""
    marks = ["---" if i < text_columns else "---:" for i in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)
