"""Text for people, which may hold words of files and of environments.

A name in a file of a stranger can hold what a terminal obeys: clear the screen, set the title, write over
the line above. So this ``print`` is the one that poise uses. It shows such characters by their numbers.
"""

import builtins
import re
import shlex
import sys
import unicodedata
from pathlib import Path
from typing import Any

from poise.system.streams import TextOut

# of the invisible characters those that writing needs: joiners of Persian, of Indic scripts and of emoji
_JOINERS = "\u200c\u200d"
_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, marks of direction, halves of characters, line ends
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")


def visible(text: str) -> str:
    r"""The same, with all that a terminal obeys or hides written as ``\x1b`` or ``\u202e``.

    Line ends and tabs stay.
    """
    return _SUSPECT.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if character in _JOINERS or unicodedata.category(character) not in _OBEYED:
        return character
    return character.encode("unicode_escape").decode()


def print(*values: Any, sep: str = " ", end: str = "\n", file: TextOut | None = None, flush: bool = False):
    """``builtins.print`` of text that is made ``visible``.

    A path alone on standard output is a result: it stays as it is where a program reads it.
    """
    if len(values) == 1 and isinstance(values[0], Path) and file is None and not sys.stdout.isatty():
        builtins.print(values[0], end=end, flush=flush)
        return
    text = visible(sep.join(str(value) for value in values))
    builtins.print(text, end=end, file=file, flush=flush)


def typed(*words: Any) -> str:
    """A command as it has to be typed in a shell: ``typed("poise", "resume", folder)``."""
    return shlex.join(str(word) for word in words)
