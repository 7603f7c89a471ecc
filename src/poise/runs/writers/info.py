"""Which numbers of the environment's infos a run records in its tables: those of its first episodes."""

import csv
from pathlib import Path

from poise.envs.info import MOST
from poise.runs.journal import EPISODE_COLUMNS, EPISODES
from poise.store.files import FileError, read_lines
from poise.training.iteration import Progress, Row
from poise.training.metrics import BY_NAME, info_metrics


class InfoColumns:
    """The names that are recorded: up to 32 of the first iteration in which an episode ended.

    The table of episodes has one header, so names that come later are left out of all tables. A training that
    resumes reads them from that header: its tables continue as if it had not stopped.
    """

    def __init__(self, folder: Path):
        self.names = _in_header(folder / EPISODES)  # None before an episode has ended
        self._told: set[str] = set()  # sentences

    def settle(self, progress: Progress) -> tuple[str, ...] | None:
        """The names, which these iterations decide if they are the first with an episode."""
        if self.names is None and progress.episodes:
            self.names = tuple(_reported(progress))[:MOST]
        return self.names

    def recorded(self, row: Row) -> dict[str, float | int | None]:
        """The metrics of an iteration, without those of names that are left out."""
        names = info_metrics(dict.fromkeys(self.names or (), 0.0))
        others = {name: x for name, x in row.metrics.items() if name in BY_NAME or not _is_own(name)}
        if "episode/success_rate" not in names:
            others.pop("episode/success_rate", None)
        return others | {name: row.metrics.get(name) for name in names}

    def sentences(self, progress: Progress) -> list[str]:
        """What a person should know about names that are left out; each once."""
        late = [name for name in _reported(progress) if name not in (self.names or ())]
        if not late:
            return []
        if len(self.names or ()) == MOST:
            line = f"info has more than {MOST} numbers: {late[0]!r} and further ones are not recorded"
        else:
            line = (
                f"info: {late[0]!r} is not recorded, because the first episodes did not report it; report a "
                "number in every episode, also where it is 0 or False"
            )
        new = [] if line in self._told or len(self._told) >= MOST else [line]
        self._told.update(new)
        return new


def _reported(progress: Progress) -> dict[str, None]:
    """The names in the infos of the episodes that ended, in the order of their first appearance."""
    return dict.fromkeys(name for e in progress.episodes for name in e.info)


def _is_own(metric: str) -> bool:
    """Whether a metric is that of a number in infos."""
    return metric.startswith("episode/")


def _in_header(path: Path) -> tuple[str, ...] | None:
    """The names in the header of a table of episodes; None if it is empty."""
    try:
        header = next(iter(read_lines(path, None)), None) if path.exists() else None
    except FileError:  # whoever opens it to write says so
        return None
    return None if header is None else tuple(next(csv.reader([header])))[len(EPISODE_COLUMNS) :]
