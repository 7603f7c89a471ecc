"""Numbers and tables as people read them."""

import re
from collections.abc import Sequence

WIDTH = 44  # characters of a command that fit a telephone


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def figure(value: float) -> str:
    """With one decimal from 100 on, with two below."""
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def between(low: float | None, high: float | None) -> str:
    """An interval; a bound that is None is that of one seed."""
    return "one seed" if low is None or high is None else f"{figure(low)} to {figure(high)}"


def continued(command: str) -> str:
    """A command for a shell, with each of its options on a line of its own where it is long."""
    if len(command) <= WIDTH or not command.startswith("poise ") or "'" in command:
        return command  # within quotes a break would change it
    return re.sub(r" (--[a-z])", r" \\\n  \1", command)
