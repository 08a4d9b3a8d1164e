"""Elements of a self-contained SVG picture: no scripts, and no references to other files."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["CHAR", "LINE", "document", "label", "rect"]

LINE, CHAR = 18, 7.9
"""Pixels of a line and of a character."""
FONT = 13
"""Size of the font in pixels."""


def document(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return an XML document of these elements on a white ground."""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="{FONT}">',
            f"<title>{html.escape(title)}</title>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def rect(x: float, y: float, width: float, height: float, fill: str, stroke: str, *, radius: float = 0) -> str:
    """Return a rectangle; ``radius`` rounds its corners."""
    size = f'width="{width:.1f}" height="{height:.1f}"' + (f' rx="{radius:.0f}"' if radius else "")
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{fill}" stroke="{stroke}"/>'


def label(
    x: float, y: float, words: str, *, size: int = FONT, colour: str = "#212529", weight: str = "", anchor: str = ""
) -> str:
    """Return a line of text, whose baseline is at ``y``."""
    marks = "".join(
        f' {name}="{value}"'
        for name, value in (
            ("font-size", size if size != FONT else ""),
            ("font-weight", weight),
            ("text-anchor", anchor),
        )
        if value
    )
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" xml:space="preserve"{marks}>{html.escape(words)}</text>'
