"""Results as HTML, which a notebook shows for the last value of a cell."""

import base64
from collections.abc import Sequence
from html import escape

from poise.system.terminal import visible

_FAINT = "rgba(128,128,128,.35)"  # on a light page and on a dark one
_TEXT = "font-family:system-ui,sans-serif;font-size:14px;line-height:1.5;max-width:720px"
_CELL = f"padding:2px 16px 2px 0;border-bottom:1px solid {_FAINT};font-variant-numeric:tabular-nums"
_PNG = b"\x89PNG\r\n\x1a\n"


def card(
    title: str,
    lines: Sequence[str] = (),
    table: Sequence[Sequence[str]] = (),
    picture: bytes | None = None,
) -> str:
    """A title, a table, lines and a picture, in the colors of the page around them.

    All text is escaped.

    Args:
        table: rows of text; the first row has the titles, the first column is aligned to the left.
        picture: a PNG, which becomes part of the text; anything else is left out.
    """
    parts = [f'<div style="font-weight:600">{_safe(title)}</div>']
    if table:
        head, *rows = table
        parts.append(f'<table style="border-collapse:collapse;margin:6px 0">{_row("th", head)}')
        parts += [_row("td", row) for row in rows]
        parts.append("</table>")
    parts += [f"<div>{_safe(line)}</div>" for line in lines]
    if picture is not None and picture.startswith(_PNG):
        data = base64.b64encode(picture).decode()
        style = "width:100%;max-width:560px;margin-top:6px;border-radius:4px"
        parts.append(f'<img alt="learning curve" style="{style}" src="data:image/png;base64,{data}">')
    return f'<div style="{_TEXT}">{"".join(parts)}</div>'


def preformatted(lines: Sequence[str]) -> str:
    """Lines for a terminal, with their columns."""
    text = "\n".join(lines)
    style = "font-size:13px;line-height:1.4;max-width:900px;white-space:pre-wrap;background:none"
    return f'<pre style="{style}">{_safe(text)}</pre>'


def _row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left"] + ["right"] * (len(cells) - 1)
    styled = [
        f'<{tag} style="{_CELL};text-align:{side}">{_safe(cell)}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    ]
    return f'<tr style="background:none">{"".join(styled)}</tr>'


def _safe(text: str) -> str:
    return escape(visible(text))
