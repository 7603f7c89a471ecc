"""Text for people, which may contain text of files and of environments.

A name in a file of unknown origin can contain control sequences for a terminal: clear the screen, set the
title, overwrite the line above. So poise uses this ``print``, which shows such characters as escapes.
"""

import builtins
import re
import shlex
import sys
import unicodedata
from pathlib import Path
from typing import Any

from poise.system.streams import TextOut

# invisible characters that writing needs: joiners of Persian, of Indic scripts and of emoji
_JOINERS = "\u200c\u200d"
_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, direction marks, surrogates, line separators
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")


def visible(text: str) -> str:
    r"""The same text, with characters that control a terminal or are invisible written as ``\x1b``.

    Line ends and tabs stay.
    """
    return _SUSPECT.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if character in _JOINERS or unicodedata.category(character) not in _CONTROLS:
        return character
    return character.encode("unicode_escape").decode()


def print(*values: Any, sep: str = " ", end: str = "\n", file: TextOut | None = None, flush: bool = False):
    """``builtins.print``, with the text made ``visible``.

    A single path on standard output is a result: it is not changed if a program reads it.
    """
    if len(values) == 1 and isinstance(values[0], Path) and file is None and not sys.stdout.isatty():
        builtins.print(values[0], end=end, flush=flush)
        return
    text = visible(sep.join(str(value) for value in values))
    builtins.print(text, end=end, file=file, flush=flush)


def typed(*words: Any) -> str:
    """A command as it is typed in a shell: ``typed("poise", "resume", folder)``."""
    return shlex.join(str(word) for word in words)
