"""What a folder is that was given for a run and has no checkpoints."""

from pathlib import Path

REPLACED = "replaced-"  # prefix of folders in a run folder that hold an earlier training
DEEPEST = 3  # folders between runs/ and a run of an experiment


def instead_of_run(place: Path) -> str | None:
    """What is there instead of a run, for an error; None: a folder without runs."""
    if not place.exists():
        return "there is no such folder"
    if not place.is_dir():
        return "is not a folder"
    newest = newest_run(place)
    return newest and f"is not a run but holds runs, the newest is {newest}"


def newest_run(place: Path) -> Path | None:
    """The run below a folder that was saved last; None without one."""
    found = [path for depth in range(1, DEEPEST + 1) for path in place.glob(f"{'*/' * depth}checkpoints")]
    runs = [path for path in found if path.is_dir() and not path.parent.name.startswith(REPLACED)]
    return max(runs, key=lambda path: path.stat().st_mtime).parent if runs else None
