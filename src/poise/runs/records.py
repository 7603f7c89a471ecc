"""A run folder, read for people: all that was written of one training, and the command that repeats it."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise import defaults
from poise.checked import ConfigError, flat
from poise.config import Config
from poise.errors import PoiseError
from poise.runs.journal import read_episodes, read_metrics
from poise.runs.options import Options
from poise.spec import Episode, Spec
from poise.store.checkpoint import CheckpointError, checkpoints, read_manifest
from poise.store.files import read_json
from poise.system.terminal import typed

LARGEST = 2**20  # bytes of a summary


class RecordError(PoiseError):
    """A folder that holds no run."""


@dataclass(frozen=True)
class Record:
    """One training, as its folder tells it.

    Attributes:
        config: every option with its number.
        options: what was asked for beside the learning, without the folder.
        summary: ``summary.json``; empty where the training has not ended, or was killed.
        rows: ``metrics.jsonl``.
    """

    folder: Path
    env: str
    backend: str
    config: Config
    options: Options
    spec: Spec
    summary: Mapping[str, Any]
    rows: Sequence[dict[str, Any]]
    episodes: Sequence[Episode]

    @property
    def steps(self) -> Float[np.ndarray, " iterations"]:
        """Environment steps at the end of each iteration."""
        return self.column("steps")

    def column(self, name: str) -> Float[np.ndarray, " iterations"]:
        """A metric over the iterations; NaN where there was nothing to measure, or it was not known yet."""
        given = (row.get(name) for row in self.rows)
        return np.array([np.nan if value is None else value for value in given], float)

    def command(self, **changes: Any) -> str:
        """``poise train`` as it has to be typed for the same training, or one with ``changes``.

        These are by dotted name, dots written as two underscores: ``ppo__clip=0.1``.
        """
        config, usual = self.config, self.config.usual(self.spec)
        wanted = config.changes(self.spec) | {n.replace("__", "."): value for n, value in changes.items()}
        options = {name: value for name, value in wanted.items() if value != usual[name]}
        options = {
            "total_steps": config.total_steps,
            "seed": config.seed,
            **options,
            **_followed(config, options),
        }
        return typed("poise", "train", self.env, *_options(options))

    def again(self) -> str:
        """``command``, with what was asked for beside the learning."""
        usual = Options().to_dict()
        asked = {name: value for name, value in self.options.to_dict().items() if value != usual[name]}
        return typed(*shlex.split(self.command()), *_options(asked))


def _followed(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """What has its default number, and would follow the options that have not: to be typed as well."""
    total, given = config.total_steps, options.get("ppo.num_steps")
    usual = {
        "num_envs": defaults.shape(total, given, options.get("num_envs"))[1],
        "ppo.num_steps": defaults.shape(total, given, config.num_envs)[0],
        "ppo.minibatch_size": defaults.minibatch_size(total, config.rollout_size),
    }
    mine = flat(config.to_dict())
    return {name: mine[name] for name in usual if name not in options and mine[name] != usual[name]}


def _options(values: Mapping[str, Any]) -> list[str]:
    """As the command line takes them."""
    words: list[str] = []
    for name, value in values.items():
        group, dot, last = name.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            words.append(f"--{group}{dot}{'' if value else 'no-'}{last}")
        else:
            many = value if isinstance(value, tuple | list) else [value]
            words += [f"--{group}{dot}{last}", *(f"{one}" for one in many)]
    return words


def read_record(run: Path) -> Record:
    """What the folder of a run says. Executes nothing of it.

    Raises:
        RecordError: it holds no run.
        CheckpointError, JournalError: a file of it is damaged.
    """
    if not (found := checkpoints(run)):
        raise RecordError(f"{run}: is no folder of a run (no checkpoints in it)")
    manifest = read_manifest(found[0])
    try:
        options = Options.from_dict(manifest.notes.get("options", {}))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{found[0] / 'manifest.json'}: {error}") from error
    return Record(
        folder=run,
        env=manifest.env,
        backend=manifest.backend,
        config=manifest.config,
        options=options,
        spec=manifest.spec,
        summary=read_summary(run),
        rows=read_metrics(run),
        episodes=read_episodes(run),
    )


def read_summary(run: Path) -> dict[str, Any]:
    """``summary.json``; empty where there is none. What is missing in it is None or empty.

    Raises:
        FileError: it is damaged.
    """
    path = run / "summary.json"
    if not os.path.lexists(path):
        return {}
    try:
        summary = known_summary(read_json(path, LARGEST))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: is damaged: {error!r:.200}") from error
    return summary


def known_summary(told: Any) -> dict[str, Any]:
    """What a training writes of itself, with all that somebody reads in its place.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: an entry is not what a training writes.
    """
    summary = {**_UNKNOWN, **{name: value for name, value in dict(told).items() if value is not None}}
    best = summary["best"]
    summary["evaluation"] = _score(summary["evaluation"])
    if best is not None:
        _check_numbers(best, ("steps",))
        summary["best"] = {**best, "evaluation": _score(best["evaluation"])}
    seconds = {name: value for name, value in dict(summary["seconds"]).items() if value is not None}
    _check_numbers(seconds, tuple({"total", *seconds} if seconds else ()))
    summary["seconds"] = {"total": 0.0, **seconds}
    _check_numbers(summary, (), ("steps", "steps_per_second"))
    for name, value in dict(summary["versions"]).items():
        if not isinstance(value, str):
            raise ValueError(f"versions: {name!r:.60} is {value!r:.60}")
    for name in ("status", "processor"):
        if not isinstance(summary[name], str):
            raise ValueError(f"{name} is {summary[name]!r:.60}")
    return summary


_UNKNOWN: dict[str, Any] = {
    "status": "unknown", "evaluation": None, "best": None, "seconds": {}, "steps": None,
    "steps_per_second": None, "versions": {}, "processor": "",
}  # fmt: skip


def _score(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A score whose interval may not be known."""
    if told is None:
        return None
    score = {"low": None, "high": None, **told}
    _check_numbers(score, ("mean", "std", "episodes", "cut"), ("low", "high"))
    return score


def _check_numbers(record: Mapping[str, Any], needed: tuple[str, ...], known: tuple[str, ...] = ()) -> None:
    """``known``: those that may be missing or None."""
    values = {name: record[name] for name in needed}
    values |= {name: value for name in known if (value := record.get(name)) is not None}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r:.60}, should be a number")
