"""Settings: trainings grouped by environment and configuration, and a label for each group."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.checked import flat
from poise.runs.journal import RETURN
from poise.runs.records import Record, judged_by
from poise.studies.results import evaluation
from poise.wording import aligned, figure, interval

ABSENT = "not changed"
LONGEST = 36  # characters of a label; a longer one is replaced by a number, which ``legend`` explains


@dataclass(frozen=True)
class Setting:
    """Trainings in one environment with one configuration and different seeds.

    ``differs``: the options that differ from the other settings, by dotted name.
    """

    env: str
    label: str
    differs: dict[str, Any]
    records: tuple[Record, ...]
    by: str = RETURN  # what they are judged by

    @property
    def legend(self) -> str | None:
        """What the label stands for, if it is a number; otherwise None."""
        words = _in_words(self.differs)
        return None if words == self.label else f"{self.label}: {words}"

    def row(self) -> tuple[str, ...]:
        """Label, seeds, mean, its interval, interquartile mean."""
        score = evaluation(self.scores)
        iqm = figure(score["iqm"]["value"])
        return self.label, str(len(self.records)), figure(score["mean"]), interval(score), iqm

    @property
    def scores(self) -> Float[np.ndarray, " seeds"]:
        """The final greedy score of each training, or what else they are judged by."""
        return np.array([judged_by(record.summary, self.by) for record in self.records], float)


def setting_lines(settings: Sequence[Setting]) -> list[str]:
    """A table of the settings of one environment, as lines of text."""
    rows = [("setting", "seeds", "mean", "95% interval", "interquartile mean"), *(s.row() for s in settings)]
    return [f"  {line}" for line in [*aligned(rows), *(s.legend for s in settings if s.legend)]]


def grouped(records: Sequence[Record], by: str = RETURN) -> list[Setting]:
    """By environment and configuration, in the order given. ``by``: what they are judged by."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.env, configuration_key(record)), []).append(record)
    settings = []
    for (env, _), group in groups.items():
        peers = [group[0] for (peer_env, _), group in groups.items() if peer_env == env]
        by_seed = tuple(sorted(group, key=lambda r: r.config.seed))
        settings.append(Setting(env, "", _differs(group[0], peers), by_seed, by))
    texts = list(dict.fromkeys(_in_words(setting.differs) for setting in settings))
    names = {text: text if len(text) <= LONGEST else f"setting {i + 1}" for i, text in enumerate(texts)}
    labelled = [dataclasses.replace(s, label=names[_in_words(s.differs)]) for s in settings]
    called = [(setting.env, _name(setting)) for setting in settings]
    called += [(setting.env, setting.label) for setting in labelled]  # a name must not be that of another one
    return [
        dataclasses.replace(setting, label=name)
        if name and called.count((setting.env, name)) == 1
        else setting
        for setting, (_, name) in zip(labelled, called[: len(labelled)], strict=True)
    ]


def _name(setting: Setting) -> str | None:
    """The name that all trainings of a setting have; None if they have none in common."""
    names = {record.options.name for record in setting.records}
    return names.pop() if len(names) == 1 else None


def _in_words(differs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in differs.items()) or "defaults"


def _options(record: Record) -> dict[str, Any]:
    options = flat(record.config.to_dict())
    del options["seed"]
    return options


def configuration_key(record: Record) -> str:
    """The configuration without the seed, as text."""
    return json.dumps(_options(record), sort_keys=True)


def _differs(record: Record, peers: Sequence[Record]) -> dict[str, Any]:
    """The options that distinguish a record; ``peers``: one record of each setting, this one included.

    Options that some setting changed from their defaults are looked at first; if they do not differ, all
    options are. A setting without others is described by its difference from the defaults.
    """
    if len(peers) == 1:
        return record.config.changes(record.spec)
    changed = {r.folder: {"total_steps": r.config.total_steps, **r.config.changes(r.spec)} for r in peers}
    for options in (changed, {r.folder: _options(r) for r in peers}):
        names = dict.fromkeys(itertools.chain.from_iterable(options.values()))
        varied = [n for n in names if len({json.dumps(o.get(n, ABSENT)) for o in options.values()}) > 1]
        if varied:
            values = options[record.folder]
            if record.config.changes(record.spec):  # otherwise its label is "defaults", and it lists nothing
                values = _options(record)
            return {name: values[name] for name in varied if name in values}
    return {}
