"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["render"]


def render(headers: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[bool] | None = None) -> str:
    """Return a table with columns as wide as their cells, numbers aligned to the right.

    ``numbers`` says which columns have numbers. Default: those without any text.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    right = numbers or [all(not isinstance(row[at], str) for row in rows) for at in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        parts = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(headers)), line(["-" * width for width in widths]), *map(line, cells)])
