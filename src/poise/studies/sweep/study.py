"""The trials of a sweep in Optuna's storage: what is tried next, and what is known of what was.

Optuna is imported here alone, and by the one process that hands out the trials.
"""

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

from poise.errors import PoiseError
from poise.store.files import FileError, open_to_write
from poise.studies.sweep.space import Dimension, Space
from poise.studies.sweep.trial import Result
from poise.system.extras import needs

JOURNAL = "journal.log"
FEWEST_BEFORE = 4  # trials that ended, from which a median says something
FEWEST_FOR_IMPORTANCE, BEST_SHARE = 8, 0.25  # completed trials; of them those whose settings are looked at
TRIES = 3  # to connect to a storage
State = Literal["running", "finished", "stopped", "failed"]


class StudyError(PoiseError):
    """A storage that cannot be used, or that holds another sweep."""


@dataclass(frozen=True)
class Tried:
    """One trial, as the storage knows it.

    Attributes:
        drawn: what was drawn for each dimension of the space, by its label.
        thresholds: of each rung what it must be worth there to go on; None: it goes on.
        values: what it was worth at each rung that it reached.
        reason: why it failed.
        mine: whether this process trains it.
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
    mine: bool = True


def _optuna() -> Any:
    """The package, or what to install."""
    try:
        import optuna
        import optuna.importance
        import optuna.storages.journal
    except ImportError as error:
        raise StudyError(f"poise sweep {needs('sweep')}") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def require_optuna() -> None:
    """
    Raises:
        StudyError: it is not installed.
    """
    _optuna()


T = TypeVar("T")


class Ledger:
    """Hands out trials in batches and takes in what they came to.

    All of a batch are drawn before any of it is told, each with a sampler of its own whose seed follows from
    the sweep's and the trial's number. A trial enters the storage in one piece, with all that was drawn. So
    who is killed at any moment draws the same again.

    Trees of Parzen estimators: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"; jointly
    over all options: Falkner et al. 2018, arXiv:1807.01774.

    Args:
        place: the journal's file, or the URL of a storage that several processes share.
        name: of the study.
        owner: of the trials that this process trains.
        begun: whether the study has to be there already.
        plan: what decides the trials; who shares a storage has to have the same.

    Raises:
        StudyError: the storage cannot be used, or holds another sweep under this name.
    """

    def __init__(
        self,
        place: Path | str,
        name: str,
        owner: str,
        plan: Mapping[str, Any],
        *,
        space: Space,
        seed: int,
        num_trials: int,
        at_once: int,
        rungs: Sequence[int],
        begun: bool = False,
    ):
        self._optuna, self._place, self._owner = _optuna(), place, owner
        self._space, self._seed, self._rungs = space, seed, tuple(rungs)
        self._num_trials, self._at_once = num_trials, at_once
        self._distributions = {d.label: self._distribution(d) for d in space}
        self._storage, self._study = self._told(lambda: self._open(name, begun))
        self._study_id = self._told(lambda: self._storage.get_study_id_from_name(name))
        known = self._told(lambda: self._study.user_attrs)
        if "plan" not in known and not self._frozen():
            self._told(lambda: self._study.set_user_attr("plan", dict(plan)))
            known = self._told(lambda: self._study.user_attrs)
        if known.get("plan") != dict(plan):
            raise StudyError(
                f"study = {name!r}: holds another sweep{_first_difference(known.get('plan'), plan)}"
            )

    def take(self) -> list[Tried]:
        """The batch that is to be trained: what is left of the last, or a new one; empty at the end."""
        mine = [trial for trial in self.tried() if trial.mine]
        running = [trial for trial in mine if trial.state == "running"]
        begun = len(mine) % self._at_once
        batch = mine[len(mine) - begun :]
        if running and (not batch or any(trial.state != "running" for trial in batch)):
            return running
        left = self._at_once - begun if running else self._at_once
        for _ in range(left):
            if len(self._frozen()) >= self._num_trials:
                break
            self._ask()
        self._drop_beyond()
        return [trial for trial in self.tried() if trial.mine and trial.state == "running"]

    def _drop_beyond(self) -> None:
        """Of several processes that took the last trial at once, one has taken one too many."""
        for trial in self._frozen()[self._num_trials :]:
            if trial.user_attrs.get("owner") == self._owner and not trial.state.is_finished():
                self.tell(trial.number, "one too many: another process had taken the last")

    def _ask(self) -> None:
        trials = self._frozen()
        number, done = len(trials), self.tried()
        drawn, distributions = self._draw(number, trials)
        owned = {"owner": self._owner, "thresholds": list(thresholds(self._rungs, done))}
        owned["options"] = {d.name: d.option(drawn[d.label]) for d in self._space if d.label in drawn}
        state = self._optuna.trial.TrialState.RUNNING
        made = self._optuna.trial.create_trial(
            state=state, params=drawn, distributions=distributions, user_attrs=owned
        )
        self._told(lambda: self._study.add_trial(made))

    def _draw(self, number: int, trials: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A function of the seed, the number and the trials before: drawn in a copy of the study.

        The first is the defaults, as far as the space holds them.
        """
        optuna = self._optuna
        entropy = (self._seed, number)
        if isinstance(self._place, str):  # two processes of a shared storage may see the same trials
            entropy = (*entropy, int(self._owner, 16))
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in trials:
            copy.add_trial(trial)
        if number == 0:
            copy.enqueue_trial({d.label: d.drawn(d.usual) for d in self._space if d.holds(d.usual)})
        asked = copy.ask(self._distributions)
        return asked.params, asked.distributions

    def tell(self, number: int, result: Result | str) -> None:
        """What a trial came to, or why it failed."""
        states = self._optuna.trial.TrialState
        storage = self._storage

        def told() -> None:
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

        self._told(told)

    def tried(self) -> list[Tried]:
        """All trials up to the last that was asked for, by number."""
        try:
            return [self._tried(trial) for trial in self._frozen()[: self._num_trials]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StudyError(f"{_shown(self._place)}: is damaged: {error!r:.200}") from error

    def importances(self) -> dict[str, float]:
        """Of each option, how much it mattered, in all 1; empty where too few trials came to their end.

        How far what was drawn in the best quarter of the trials differs from what was drawn in all:
        PED-ANOVA, Watanabe et al. 2023, arXiv:2304.10255.
        """
        if sum(trial.state == "finished" for trial in self.tried()) < FEWEST_FOR_IMPORTANCE:
            return {}
        importance = self._optuna.importance
        evaluator = importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = importance.get_param_importances(self._study, evaluator=evaluator)
        names = {d.label: d.name for d in self._space}
        return {names[label]: float(share) for label, share in found.items() if np.isfinite(share)}

    def _tried(self, trial: Any) -> Tried:
        attrs = trial.user_attrs
        states: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}
        state = states.get(trial.state.name, "running")
        given = attrs.get("thresholds", [None] * len(self._rungs))
        return Tried(
            number=trial.number,
            state=state,
            drawn=dict(trial.params),
            thresholds=tuple(None if value is None else float(value) for value in given),
            score=float(trial.value) if state == "finished" else None,
            scores=tuple(float(one) for one in attrs.get("scores", ())),
            values={int(step): float(value) for step, value in trial.intermediate_values.items()},
            pruned=attrs.get("pruned"),
            seconds=float(attrs.get("seconds", 0.0)),
            reason=str(attrs.get("reason", "")),
            mine=attrs.get("owner") == self._owner,
        )

    def _frozen(self) -> list[Any]:
        return self._told(lambda: self._study.get_trials(deepcopy=False))

    def _distribution(self, dimension: Dimension) -> Any:
        made = self._optuna.distributions
        if dimension.scale == "choice":
            return made.CategoricalDistribution([dimension.drawn(choice) for choice in dimension.choices])
        low, high = dimension.drawn(dimension.low), dimension.drawn(dimension.high)
        kind = made.IntDistribution if dimension.whole else made.FloatDistribution
        return kind(low, high, log=dimension.scale != "linear")

    def _open(self, name: str, begun: bool) -> tuple[Any, Any]:
        optuna = self._optuna
        if isinstance(self._place, Path):
            _mend(self._place)
            journal = optuna.storages.journal
            # made by creating a file: sound on NFS from version 3 on, and needs no rights on Windows
            lock = journal.JournalFileOpenLock(str(self._place))
            storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(self._place), lock))
        else:
            storage = _connected(optuna, self._place)
        sampler = optuna.samplers.RandomSampler()  # draws nothing: copies of the study do
        if begun:
            try:
                return storage, optuna.load_study(storage=storage, study_name=name, sampler=sampler)
            except KeyError as error:
                raise StudyError(f"{_shown(self._place)}: does not hold this sweep any more") from error
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", sampler=sampler, load_if_exists=True
        )
        return storage, study

    def _told(self, call: Callable[[], T]) -> T:
        """What it returns; whatever a storage or its driver raises becomes one line."""
        try:
            return call()
        except PoiseError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())
            if isinstance(self._place, str):
                said = without_secrets(said, self._place)
            where = "storage" if isinstance(self._place, str) else "journal"
            raise StudyError(
                f"{where} = {_shown(self._place)!r}: cannot be used: {type(error).__name__}: {said:.200}"
            ) from error


def _connected(optuna: Any, url: str) -> Any:
    """The storage. Two processes that make its tables at once disturb each other: one of them tries again."""
    for attempt in range(TRIES):
        try:
            return optuna.storages.get_storage(url)
        except Exception:  # each database has its own; the last one is raised
            if attempt == TRIES - 1:
                raise
            time.sleep(0.3 * (attempt + 1))
    raise AssertionError


def score(scores: Sequence[float]) -> float:
    """What a trial is worth: the interquartile mean over its seeds."""
    from poise.studies.statistics import interquartile_mean

    return float(interquartile_mean(np.array(scores)))


def thresholds(rungs: Sequence[int], tried: Sequence[Tried]) -> tuple[float | None, ...]:
    """At each rung the median of the trials that came to their end; None where they are too few to say.

    A trial whose best value so far is below it is stopped: the median stopping rule of Golovin et al. 2017,
    "Google Vizier: A Service for Black-Box Optimization", section 3.2.2, as Optuna's MedianPruner has it.
    """
    ended = [trial.values for trial in tried if trial.state == "finished"]
    known = [[values[rung] for values in ended if rung in values] for rung in rungs]
    return tuple(float(np.median(values)) if len(values) >= FEWEST_BEFORE else None for values in known)


def new_owner() -> str:
    """A name for the trials of one folder."""
    return uuid.uuid4().hex[:12]


def _mend(journal: Path) -> None:
    """Cuts off half a line that a kill left, and the lock that it left; nobody else writes to it now."""
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


def _shown(place: Path | str) -> str:
    return masked(place) if isinstance(place, str) else str(place)


def masked(url: str) -> str:
    """The URL of a storage without a password, also where it is not written as one has to be.

    Of what follows a question mark nothing is shown: drivers take secrets there.
    """
    place, mark, query = url.partition("?")
    kind = re.match(r"[\w+.-]+://", place)
    scheme = kind[0] if kind else ""
    if "@" in query:  # a password with a question mark in it, perhaps
        return f"{scheme}***"
    account, at, host = place.rpartition("@")
    if at and (known := re.fullmatch(r"([\w+.-]+://[^:/@]*)(:.*)?", account)):
        place = f"{known[1]}:***@{host}" if known[2] else place
    elif at:
        place = f"{scheme}***@{host}"
    else:  # a port that is not a number
        place = re.sub(r"^([\w+.-]*(?:://?|//)?[^:/]+:)(?!\d+(?:/|$)|//)[^/]*", r"\1***", place)
    return place + ("?***" if mark else "")


def without_secrets(text: str, url: str) -> str:
    """What a driver says, without what ``masked`` leaves out of the URL."""
    shown = masked(url)
    text = text.replace(url, shown)
    parts = {part for form in (url, unquote(url)) for part in re.split(r"[:/@?&=;]", form)}
    for part in sorted({part for part in parts if part and part not in shown}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "***", text)
    return text


def _first_difference(theirs: Any, mine: Mapping[str, Any]) -> str:
    if not isinstance(theirs, Mapping):
        return ""
    from poise.checked import flat

    one, other = flat(dict(theirs)), flat(dict(mine))
    name = next((name for name in {**one, **other} if one.get(name) != other.get(name)), None)
    return "" if name is None else f": {name} is {one.get(name)!r:.60} there, {other.get(name)!r:.60} here"
