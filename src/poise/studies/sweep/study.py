"""The trials of a sweep in Optuna's storage: their results, and the settings to try next.

Only this file imports Optuna, and only in the process that hands out the trials.
"""

import json
import re
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote

import numpy as np

from poise.checked import ConfigError, flat
from poise.config import Config
from poise.errors import PoiseError
from poise.runs.options import Options
from poise.store.files import FileError, open_to_write
from poise.studies.sweep.space import Dimension, Space
from poise.studies.sweep.trial import Result
from poise.system.extras import needs

JOURNAL = "journal.log"
FEWEST_BEFORE = 4  # finished trials for a median
FEWEST_FOR_IMPORTANCE, BEST_SHARE = 8, 0.25  # finished trials; the share of them that counts as the best
TRIES = 3  # attempts to connect to a storage
State = Literal["running", "finished", "stopped", "failed"]


class StudyError(PoiseError):
    """A storage that cannot be used, or that holds another sweep."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as the storage holds it.

    Attributes:
        drawn: the value drawn for each dimension of the space, by its label.
        thresholds: for each rung, the training return below which the trial is stopped; None: not stopped.
        values: the training return at each rung that it reached.
        pruned: the rung at which it was stopped, in environment steps.
        seconds: of the process that ended it.
        reason: why it failed.
        is_own: whether this process trains it.
    """

    number: int
    state: State
    drawn: Mapping[str, Any]
    thresholds: tuple[float | None, ...]
    score: float | None
    scores: tuple[float, ...] = ()
    values: Mapping[int, float] = field(default_factory=dict)
    pruned: int | None = None
    seconds: float = 0.0
    reason: str = ""
    is_own: bool = True


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What decides which settings are drawn, and when a trial is stopped.

    Attributes:
        num_trials: settings in all, over all processes that share a storage.
        at_once: trials of a batch.
        rungs: environment steps after which a trial may be stopped.
    """

    space: Space
    seed: int
    num_trials: int
    at_once: int
    rungs: tuple[int, ...]


def _optuna() -> Any:
    """The package.

    Raises:
        StudyError: it is not installed; names the extra.
    """
    try:
        import optuna
        import optuna.importance
        import optuna.storages.journal
    except ImportError as error:
        raise StudyError(f"poise sweep {needs('sweep')}") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def require_optuna() -> None:
    """Checks that Optuna is installed.

    Raises:
        StudyError: it is not.
    """
    _optuna()


T = TypeVar("T")


class Ledger:
    """Hands out trials in batches and stores their results.

    All trials of a batch are drawn before any of them has a result, each with its own sampler, whose seed
    follows from the sweep's seed and the trial's number. A trial is stored in one step, with its settings. So
    a process that is killed at any moment draws the same trials again.

    Tree-structured Parzen estimators: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization";
    jointly over all options: Falkner et al. 2018, arXiv:1807.01774.

    Args:
        place: the journal's file, or the URL of a storage that several processes share.
        name: of the study.
        owner: marks the trials that this process trains.
        plan: what decides the trials; equal in all processes that share a storage.
        sampling: how the trials are drawn.
        exists: whether the study must be in the storage already.

    Raises:
        StudyError: the storage cannot be used, or holds another sweep under this name.
    """

    def __init__(
        self,
        place: Path | str,
        name: str,
        owner: str,
        plan: Mapping[str, Any],
        sampling: Sampling,
        *,
        exists: bool = False,
    ):
        self._optuna, self._place, self._owner, self._sampling = _optuna(), place, owner, sampling
        self._distributions = {d.label: self._distribution(d) for d in sampling.space}
        self._storage, self._study = self._call(lambda: self._open(name, exists))
        self._study_id = self._call(lambda: self._storage.get_study_id_from_name(name))
        stored = self._call(lambda: self._study.user_attrs)
        if "plan" not in stored and not self._frozen():
            self._call(lambda: self._study.set_user_attr("plan", dict(plan)))
            stored = self._call(lambda: self._study.user_attrs)
        if (there := _of_today(stored.get("plan"))) != dict(plan):
            raise StudyError(f"study = {name!r}: holds another sweep{_first_difference(there, plan)}")

    def take(self) -> list[TrialRecord]:
        """The batch to be trained: the rest of the last one, or a new one; empty when all are done."""
        own = [trial for trial in self.trials() if trial.is_own]
        running = [trial for trial in own if trial.state == "running"]
        at_once = self._sampling.at_once
        num_last = len(own) % at_once  # of a batch that is not complete
        last = own[len(own) - num_last :]
        if running and (not last or any(trial.state != "running" for trial in last)):
            return running
        for _ in range(at_once - num_last if running else at_once):
            if len(self._frozen()) >= self._sampling.num_trials:
                break
            self._ask()
        self._discard_extra()
        return [trial for trial in self.trials() if trial.is_own and trial.state == "running"]

    def _discard_extra(self) -> None:
        """If several processes took the last trial at the same time, discards the extra one."""
        for trial in self._frozen()[self._sampling.num_trials :]:
            if trial.user_attrs.get("owner") == self._owner and not trial.state.is_finished():
                self.tell(trial.number, "discarded: another process had taken the last trial")

    def _ask(self) -> None:
        """Draws a trial and stores it."""
        frozen = self._frozen()
        drawn, distributions = self._draw(len(frozen), frozen)
        attributes = {
            "owner": self._owner,
            "thresholds": list(thresholds(self._sampling.rungs, self.trials())),
            "options": {d.name: d.option(drawn[d.label]) for d in self._sampling.space if d.label in drawn},
        }
        state = self._optuna.trial.TrialState.RUNNING
        trial = self._optuna.trial.create_trial(
            state=state, params=drawn, distributions=distributions, user_attrs=attributes
        )
        self._call(lambda: self._study.add_trial(trial))

    def _draw(self, number: int, trials: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of a trial: a function of the seed, its number and the trials before it.

        They are drawn in a copy of the study. The first trial is the defaults, where the space holds them.
        """
        optuna, sampling = self._optuna, self._sampling
        entropy = (sampling.seed, number)
        if isinstance(self._place, str):  # two processes of a shared storage may see the same trials
            entropy = (*entropy, int(self._owner, 16))
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in trials:
            copy.add_trial(trial)
        if number == 0:
            copy.enqueue_trial({d.label: d.drawn(d.usual) for d in sampling.space if d.holds(d.usual)})
        asked = copy.ask(self._distributions)
        return asked.params, asked.distributions

    def tell(self, number: int, result: Result | str) -> None:
        """Stores the result of a trial, or the reason why it failed."""
        states = self._optuna.trial.TrialState
        storage = self._storage

        def store() -> None:
            id = storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            if isinstance(result, str):
                storage.set_trial_user_attr(id, "reason", result)
                self._study.tell(number, state=states.FAIL)
                return
            for name in ("scores", "pruned", "seconds"):
                value = getattr(result, name)
                storage.set_trial_user_attr(id, name, list(value) if name == "scores" else value)
            for step, value in result.values.items():
                storage.set_trial_intermediate_value(id, step, value)
            if result.pruned is None:
                self._study.tell(number, score(result.scores))
            else:
                self._study.tell(number, state=states.PRUNED)

        self._call(store)

    def trials(self) -> list[TrialRecord]:
        """All trials, by number."""
        try:
            return [self._record(trial) for trial in self._frozen()[: self._sampling.num_trials]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StudyError(f"{_display(self._place)}: is damaged: {error!r:.200}") from error

    def importances(self) -> dict[str, float]:
        """How much each option mattered, by name, with sum 1; empty if too few trials finished.

        Measured by how far the values in the best quarter of the trials differ from those in all trials:
        PED-ANOVA, Watanabe et al. 2023, arXiv:2304.10255.
        """
        if sum(trial.state == "finished" for trial in self.trials()) < FEWEST_FOR_IMPORTANCE:
            return {}
        importance = self._optuna.importance
        evaluator = importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = importance.get_param_importances(self._study, evaluator=evaluator)
        names = {d.label: d.name for d in self._sampling.space}
        return {names[label]: float(share) for label, share in shares.items() if np.isfinite(share)}

    def _record(self, trial: Any) -> TrialRecord:
        attributes = trial.user_attrs
        states: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}
        state = states.get(trial.state.name, "running")
        limits = attributes.get("thresholds", [None] * len(self._sampling.rungs))
        return TrialRecord(
            number=trial.number,
            state=state,
            drawn=dict(trial.params),
            thresholds=tuple(None if limit is None else float(limit) for limit in limits),
            score=float(trial.value) if state == "finished" else None,
            scores=tuple(float(score) for score in attributes.get("scores", ())),
            values={int(step): float(value) for step, value in trial.intermediate_values.items()},
            pruned=attributes.get("pruned"),
            seconds=float(attributes.get("seconds", 0.0)),
            reason=str(attributes.get("reason", "")),
            is_own=attributes.get("owner") == self._owner,
        )

    def _frozen(self) -> list[Any]:
        """The trials as Optuna's records, by number."""
        return self._call(lambda: self._study.get_trials(deepcopy=False))

    def _distribution(self, dimension: Dimension) -> Any:
        distributions = self._optuna.distributions
        if dimension.scale == "choice":
            return distributions.CategoricalDistribution(
                [dimension.drawn(choice) for choice in dimension.choices]
            )
        low, high = dimension.drawn(dimension.low), dimension.drawn(dimension.high)
        kind = distributions.IntDistribution if dimension.whole else distributions.FloatDistribution
        return kind(low, high, log=dimension.scale != "linear")

    def _open(self, name: str, exists: bool) -> tuple[Any, Any]:
        optuna = self._optuna
        if isinstance(self._place, Path):
            _repair_journal(self._place)
            journal = optuna.storages.journal
            # locks by creating a file: works on NFS from version 3 on, and without privileges on Windows
            lock = journal.JournalFileOpenLock(str(self._place))
            storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(self._place), lock))
        else:
            storage = _connect(optuna, self._place)
        sampler = optuna.samplers.RandomSampler()  # unused: trials are drawn in copies of the study
        if exists:
            try:
                return storage, optuna.load_study(storage=storage, study_name=name, sampler=sampler)
            except KeyError as error:
                raise StudyError(f"{_display(self._place)}: does not contain this sweep") from error
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", sampler=sampler, load_if_exists=True
        )
        return storage, study

    def _call(self, call: Callable[[], T]) -> T:
        """Calls the storage.

        Raises:
            StudyError: any error of the storage or its driver, in one line and without passwords.
        """
        try:
            return call()
        except PoiseError:
            raise
        except Exception as error:
            message = " ".join(str(error).split())
            if isinstance(self._place, str):
                message = without_secrets(message, self._place)
            where = "storage" if isinstance(self._place, str) else "journal"
            raise StudyError(
                f"{where} = {_display(self._place)!r}: cannot be used: {type(error).__name__}: {message:.200}"
            ) from error


def _connect(optuna: Any, url: str) -> Any:
    """The storage. If two processes create its tables at the same time, one of them fails and tries again."""
    for attempt in range(TRIES):
        try:
            return optuna.storages.get_storage(url)
        except Exception:  # each database driver has its own
            if attempt == TRIES - 1:
                raise
            time.sleep(0.3 * (attempt + 1))
    raise AssertionError


def score(scores: Sequence[float]) -> float:
    """The score of a trial: the interquartile mean over its seeds."""
    from poise.studies.statistics import interquartile_mean

    return float(interquartile_mean(np.array(scores)))


def thresholds(rungs: Sequence[int], trials: Sequence[TrialRecord]) -> tuple[float | None, ...]:
    """At each rung the median over the finished trials; None where they are fewer than 4.

    A trial whose best value so far is below it is stopped: the median stopping rule of Golovin et al. 2017,
    "Google Vizier: A Service for Black-Box Optimization", section 3.2.2, as Optuna's MedianPruner has it.
    """
    finished = [trial.values for trial in trials if trial.state == "finished"]
    columns = [[values[rung] for values in finished if rung in values] for rung in rungs]
    return tuple(float(np.median(column)) if len(column) >= FEWEST_BEFORE else None for column in columns)


def new_owner() -> str:
    """A random name that marks the trials of one folder."""
    return uuid.uuid4().hex[:12]


def _repair_journal(journal: Path) -> None:
    """Removes the incomplete last line and the lock that a killed process left. The folder is claimed, so no
    other process writes to the journal."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    try:
        opened = open_to_write(journal)
    except FileNotFoundError:
        return
    except FileError as error:
        raise StudyError(str(error)) from error
    with open(opened, "rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def _display(place: Path | str) -> str:
    return masked(place) if isinstance(place, str) else str(place)


def masked(url: str) -> str:
    """The URL of a storage without its password, also if the URL is malformed.

    Everything after a question mark is hidden: drivers take secrets there.
    """
    place, mark, query = url.partition("?")
    kind = re.match(r"[\w+.-]+://", place)
    scheme = kind[0] if kind else ""
    if "@" in query:  # possibly a password that contains a question mark
        return f"{scheme}***"
    account, at, host = place.rpartition("@")
    if at and (match := re.fullmatch(r"([\w+.-]+://[^:/@]*)(:.*)?", account)):
        place = f"{match[1]}:***@{host}" if match[2] else place
    elif at:
        place = f"{scheme}***@{host}"
    else:  # a port that is not a number
        place = re.sub(r"^([\w+.-]*(?:://?|//)?[^:/]+:)(?!\d+(?:/|$)|//)[^/]*", r"\1***", place)
    return place + ("?***" if mark else "")


def without_secrets(text: str, url: str) -> str:
    """The message of a driver, without the parts of the URL that ``masked`` hides."""
    shown = masked(url)
    text = text.replace(url, shown)
    parts = {part for form in (url, unquote(url)) for part in re.split(r"[:/@?&=;]", form)}
    for part in sorted({part for part in parts if part and part not in shown}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "***", text)
    return text


def _of_today(plan: Any) -> Any:
    """The plan of a sweep, which an earlier version may have stored, with all options and names of today."""
    try:
        config, options = Config.from_dict(plan["config"]), Options.from_dict(plan["options"])
        return {**plan, **json.loads(json.dumps({"config": config.to_dict(), "options": options.to_dict()}))}
    except (ConfigError, KeyError, TypeError):  # no plan
        return plan


def _first_difference(stored: Any, plan: Mapping[str, Any]) -> str:
    if not isinstance(stored, Mapping):
        return ""
    there, here = flat(dict(stored)), flat(dict(plan))
    name = next((name for name in {**there, **here} if there.get(name) != here.get(name)), None)
    return "" if name is None else f": {name} is {there.get(name)!r:.60} there, {here.get(name)!r:.60} here"
