"""Tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence


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


def section(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int, *notes: str
) -> str:
    """Returns a Markdown section: a table with notes below it; empty without rows."""
    if not rows:
        return ""
    return "\n\n".join([f"## {title}", markdown_table(header, rows, text_columns), *notes])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Returns a Markdown table whose first `text_columns` columns stand to the left."""
    marks = ["---" if i < text_columns else "---:" for i in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)
