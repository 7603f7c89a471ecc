"""A run folder, read: everything written about one training, and the command that repeats it."""

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
from poise.agents.evaluation import LONGEST, Evaluation
from poise.checked import ConfigError, flat
from poise.config import Config
from poise.envs.info import MOST, name_of
from poise.errors import PoiseError
from poise.runs.journal import RETURN, read_episodes, read_metrics, read_score_episodes
from poise.runs.options import Options
from poise.spec import Episode, Spec
from poise.store.checkpoint import CheckpointError, checkpoints, read_manifest
from poise.store.files import read_json
from poise.store.places import instead_of_run
from poise.system.terminal import typed
from poise.training.metrics import NAME, base_name

LARGEST = 2**20  # bytes of a summary


class RecordError(PoiseError):
    """The folder is not a run folder."""


@dataclass(frozen=True)
class Record:
    """One training, as read from its folder.

    Attributes:
        config: every option with its number.
        options: what is done beside the learning, without the folder.
        summary: ``summary.json``; empty if the training has not ended, or was killed.
        rows: of ``metrics.jsonl``.
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
        """A metric over the iterations; NaN where nothing was measured or the metric did not exist yet."""
        values = (row.get(name) for row in self.rows)
        return np.array([np.nan if value is None else value for value in values], float)

    @property
    def reported(self) -> list[str]:
        """The metrics of the numbers in the environment's infos."""
        names = self.rows[-1] if self.rows else {}
        return [n for n in names if n == "episode/success_rate" or base_name(n) == f"episode{NAME}"]

    def parts(self, name: str) -> list[str]:
        """The metrics of single boxes and choices, such as ``policy/std/aim`` for ``policy/std``."""
        own = [f"{name}/{piece.name}" for piece in self.spec.pieces]
        return [metric for metric in own if self.rows and metric in self.rows[-1]]

    def command(self, **changes: Any) -> str:
        """The ``poise train`` command for the same training, or for one with ``changes``.

        Changes are named like options, with two underscores for a dot: ``ppo__clip=0.1``.
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

    def again(self, num_seeds: int = 1) -> str:
        """``command`` with the options beside the learning, for so many seeds from this one on.

        For a seed that was trained together with others, as many: which ones they are changes no bit of it.
        """
        usual = Options().settled().to_dict()
        changed = {name: value for name, value in self.options.to_dict().items() if value != usual[name]}
        if (seeds := max(num_seeds, changed.get("together", 1))) > 1:
            changed["seeds"] = seeds
        return typed(*shlex.split(self.command()), *_options(changed))


def _followed(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a default number that one of ``options`` would change: the command needs them."""
    total, num_steps = config.total_steps, options.get("ppo.num_steps")
    usual = {
        "num_envs": defaults.shape(total, num_steps, options.get("num_envs"))[1],
        "ppo.num_steps": defaults.shape(total, num_steps, config.num_envs)[0],
        "ppo.minibatch_size": defaults.minibatch_size(total, *config.shape),
    }
    values = flat(config.to_dict())
    return {name: values[name] for name in usual if name not in options and values[name] != usual[name]}


def _options(values: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line."""
    words: list[str] = []
    for name, value in values.items():
        group, dot, last = name.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            words.append(f"--{group}{dot}{'' if value else 'no-'}{last}")
        else:
            option, many = f"--{group}{dot}{last}", value if isinstance(value, tuple | list) else [value]
            like_option = len(many) == 1 and f"{many[0]}".startswith("-")
            words += [f"{option}={many[0]}"] if like_option else [option, *(f"{item}" for item in many)]
    return words


def read_record(run: Path) -> Record:
    """Reads the folder of a run. Executes nothing in it.

    Raises:
        RecordError: it is not a run folder.
        CheckpointError, JournalError: a file of it is damaged.
    """
    if not (folders := checkpoints(run)):
        why = instead_of_run(run) or "is not a run folder (no checkpoints in it)"
        raise RecordError(f"{run}: {why}")
    manifest = read_manifest(folders[0])
    try:
        options = Options.from_dict(manifest.notes.get("options", {}))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{folders[0] / 'manifest.json'}: {error}") from error
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


def scored_info(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in infos of the final score, as means over its episodes, with its success rate."""
    score = summary.get("evaluation") or {}
    rate = score.get("success_rate")
    return ({} if rate is None else {"success_rate": rate}) | score.get("info", {})


def judged_by(summary: Mapping[str, Any], by: str) -> float | None:
    """What a finished training is judged by: the mean return of its score, or one of ``scored_info``."""
    score = summary.get("evaluation")
    if not score:
        return None
    return float(score["mean"]) if by == RETURN else scored_info(summary).get(by)


def read_summary(run: Path) -> dict[str, Any]:
    """``summary.json``; empty if there is none. Missing entries are None or empty.

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


def read_score(run: Path, summary: Mapping[str, Any]) -> Evaluation | None:
    """The final score of a run with this ``read_summary``; None if it was not scored.

    Raises:
        JournalError: its table is damaged.
    """
    if (score := summary["evaluation"]) is None:
        return None
    returns, lengths, info = read_score_episodes(run)
    how = score["cut"], score.get("longest", LONGEST), score.get("stopped")
    return Evaluation(returns, lengths, *how, info=info)  # that of a training is greedy


def known_summary(data: Any) -> dict[str, Any]:
    """A summary in which every entry that poise reads exists and has the right type.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: an entry is not what a training writes.
    """
    summary = {**_UNKNOWN, **{name: value for name, value in dict(data).items() if value is not None}}
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
    for name, kind in (
        ("status", str),
        ("processor", str),
        ("stopped_by", str | None),
        ("stop_reason", str | None),
    ):
        if not isinstance(summary[name], kind):
            raise ValueError(f"{name} is {summary[name]!r:.60}")
    return summary


_UNKNOWN: dict[str, Any] = {
    "status": "unknown", "stopped_by": None, "stop_reason": None, "evaluation": None, "best": None,
    "seconds": {}, "steps": None, "steps_per_second": None, "versions": {}, "processor": "",
}  # fmt: skip


_SUCCESS = ("success_rate", "success_low", "success_high")


def _score(data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A score. Its interval may be missing: then it is None."""
    if data is None:
        return None
    score = {"low": None, "high": None, **data}
    _check_numbers(score, ("mean", "std", "episodes", "cut"), ("low", "high", *_SUCCESS))
    info = dict(score.get("info") or {})
    if len(info) > MOST or any(name_of(name) != name for name in info):
        raise ValueError("info")
    _check_numbers(info, tuple(info))
    return {**score, "info": info}


def _check_numbers(
    record: Mapping[str, Any], needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    """Refuses entries that are not finite numbers. ``optional``: may also be missing or None."""
    values = {name: record[name] for name in needed}
    values |= {name: value for name in optional if (value := record.get(name)) is not None}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r:.60}, should be a number")
