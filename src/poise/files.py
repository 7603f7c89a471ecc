"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """The whole text or, where writing fails, what was there before. ``private``: others may not read it."""
    fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        if private:
            fresh.touch(mode=0o600)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
