"""A curriculum: settings of the environments as a function of how far a training has come.

It is a collector around another one. Before each rollout it asks the function, and changes the settings. What
it was told and what it has decided are part of its snapshot, so a resumed training decides the same.
"""

import hashlib
import importlib
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np

from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.arrays import ArraysError, part, prefixed
from poise.checked import ConfigError
from poise.config import Config
from poise.envs.adjusting import Adjustable, adjust_all, packed_json, plain_settings, unpacked_json
from poise.envs.vector import EnvError
from poise.errors import message_of
from poise.own.naming import in_the_program
from poise.training.collector import Collected, Collector

WINDOW = 100  # episodes


@dataclass(frozen=True)
class CurriculumState:
    """What a curriculum decides from, before a rollout.

    Attributes:
        steps: environment steps so far.
        share: of the budget, from 0 to 1.
        mean_return: of the last episodes that have ended, at most 100; None before the first.
        episodes: how many these are.
        settings: the last decision; empty before the first.
    """

    steps: int
    share: float
    mean_return: float | None
    episodes: int
    settings: Mapping[str, Any]


Decide = Callable[[CurriculumState], Mapping[str, Any]]


def load_function(name: str) -> Decide:
    """The function ``module:function``. The module is imported.

    Raises:
        ConfigError: there is none.
    """
    module, _, function = name.partition(":")
    if module == "__main__":
        raise ConfigError(in_the_program(function, "curriculum", "tasks"))
    try:
        found: Any = importlib.import_module(module)
        for each in function.split("."):
            found = getattr(found, each)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # code at the top of the module may raise anything
        raise ConfigError(f"curriculum = {name!r}: cannot be imported: {message_of(error)}") from error
    if not callable(found):
        raise ConfigError(f"curriculum = {name!r}: is not a function, but {type(found).__name__}")
    decide: Any = found
    return decide


def name_of_function(function: Any) -> str:
    """The name ``module:function`` of a function, which must lead back to it.

    Raises:
        ConfigError: it does not, or the program itself has it: a resumed training could not find it.
    """
    module, name = (str(getattr(function, a, "")) for a in ("__module__", "__qualname__"))
    if module == "__main__" and name.isidentifier():
        raise ConfigError(in_the_program(name, "curriculum", "tasks"))
    found: Any = sys.modules.get(module)
    for each in name.split("."):
        found = getattr(found, each, None)
    if found is not function:
        raise ConfigError(
            f"curriculum = {name or function!r}: must be a function at the top of a module, so that a "
            'resumed training finds it; or its name, "module:function"'
        )
    return f"{module}:{name}"


def program_of(function: Callable[..., Any]) -> list[str]:
    """The version of Python, and a digest of what it has compiled of a function; "" if it compiled nothing.

    Comments, line numbers and the values of global names are not part of it.
    """
    code = getattr(function, "__code__", None)
    digest = "" if code is None else hashlib.sha256(_listed(code).encode()).hexdigest()
    return [f"{sys.version_info.major}.{sys.version_info.minor}", digest]


def _listed(value: Any) -> str:
    """A constant of compiled code as text that is the same in each process."""
    match value:
        case CodeType():
            inner = ", ".join(map(_listed, value.co_consts))
            return f"{value.co_code.hex()} {value.co_names} {value.co_varnames} [{inner}]"
        case frozenset():
            return f"{{{', '.join(sorted(map(_listed, value)))}}}"
        case tuple():
            return f"({', '.join(map(_listed, value))})"
        case _:
            return repr(value)


class Curriculum:
    """A ``Collector`` that changes settings of its environments before a rollout.

    Args:
        inner: collects.
        worlds: the vector environments of ``inner``.
        config: of the training; names the function.
    """

    def __init__(self, inner: Collector, worlds: Sequence[Any], config: Config):
        assert config.curriculum is not None
        self._inner, self._worlds, self._config = inner, worlds, config
        self._name, self._decide = config.curriculum, load_function(config.curriculum)
        self.spec, self.num_envs, self.backend = inner.spec, inner.num_envs, inner.backend
        self._returns: deque[float] = deque(maxlen=WINDOW)
        self._settings: dict[str, Any] = {}
        self._program, self._notes = program_of(self._decide), tuple[str, ...]()

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        try:
            self._advance(iteration)
            collected = self._inner.collect(policy, normalizer, iteration)
        except EnvError as error:
            raise EnvError(f"curriculum {self._name}: {error}") from error
        self._returns.extend(e.episodic_return for e in collected.episodes)
        notes, self._notes = (*self._notes, *collected.notes), ()
        return collected._replace(metrics={**collected.metrics, **_metrics(self._settings)}, notes=notes)

    def _advance(self, iteration: int) -> None:
        """Decides the settings of a rollout, before which there were so many."""
        state = CurriculumState(
            steps=iteration * self._config.rollout_size,
            share=iteration / self._config.num_iterations,
            mean_return=float(np.mean(self._returns)) if self._returns else None,
            episodes=len(self._returns),
            settings=dict(self._settings),
        )
        try:
            decided = self._decide(state)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise EnvError(f"raised {message_of(error)}") from error
        settings = {**self._settings, **plain_settings(decided)}
        if self._settings and settings.keys() != self._settings.keys():
            new = ", ".join(sorted(settings.keys() - self._settings.keys()))
            raise EnvError(f"names {new} for the first time at step {state.steps:,}; name it from the start")
        if settings != self._settings:
            adjust_all(self._worlds, settings)
            self._settings = settings

    def snapshot(self) -> dict[str, Any] | None:
        world = self._inner.snapshot()
        if world is None:
            return None
        own = {
            "settings": packed_json(self._settings),
            "returns": np.array(self._returns, np.float64),
            "program": packed_json(self._program),
        }
        return {**world, **prefixed("curriculum", own)}

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        settings, returns = settings_in(arrays), part("curriculum", arrays).get("returns")
        if returns is None or returns.dtype != np.float64 or returns.ndim != 1 or len(returns) > WINDOW:
            raise ArraysError("array curriculum.returns is missing or has another shape")
        adjust_all(self._worlds, settings)
        self._settings, self._returns = settings, deque(returns.tolist(), maxlen=WINDOW)
        rest = {name: array for name, array in arrays.items() if not name.startswith("curriculum.")}
        return self._inner.restore(rest) and self._is_same(part("curriculum", arrays).get("program"))

    def _is_same(self, saved: np.ndarray | None) -> bool:
        """Whether the function is the one that was saved, as far as can be told."""
        if saved is None:  # of an earlier version of poise
            return True
        program = unpacked_json(saved, "curriculum.program")
        if program == self._program or not isinstance(program, list) or program[:1] != self._program[:1]:
            return True  # other versions of Python compile it to something else
        self._notes = (f"not exact: the function of the curriculum {self._name} was changed",)
        return False

    def close(self) -> None:
        self._inner.close()


def with_curriculum(inner: Collector, worlds: Sequence[Any], config: Config) -> Collector:
    """The collector with the curriculum that the configuration names, if it names one.

    Raises:
        ConfigError: there is no such function, or the environments have no settings that could change.
    """
    if config.curriculum is None:
        return inner
    if not all(isinstance(world, Adjustable) for world in worlds):
        refuse_curriculum(config, f"backend {inner.backend}")
    return Curriculum(inner, worlds, config)


def refuse_curriculum(config: Config, where: str) -> None:
    """Refuses a curriculum where settings cannot change.

    Raises:
        ConfigError: there is one.
    """
    if config.curriculum is not None:
        raise ConfigError(
            f"curriculum = {config.curriculum!r}: has no effect with {where}; it changes attributes of tasks "
            "of the batch engine (mujoco) and of Gymnasium's environments, in this process or in one each"
        )


def settings_in(world: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a curriculum has decided, in the snapshot of a world; empty without one.

    Raises:
        ArraysError: the snapshot is damaged.
    """
    array = part("curriculum", world or {}).get("settings")
    if array is None:
        return {}
    try:
        return plain_settings(unpacked_json(array, "curriculum.settings"))
    except EnvError as error:
        raise ArraysError(f"array curriculum.settings: {error}") from error


def _metrics(settings: Mapping[str, Any], prefix: str = "curriculum/") -> dict[str, float]:
    """The numbers among settings; those of a list by their places."""
    numbers: dict[str, float] = {}
    for name, value in settings.items():
        if isinstance(value, list):
            numbers |= _metrics({str(i): each for i, each in enumerate(value)}, f"{prefix}{name}/")
        elif not isinstance(value, str):
            numbers[prefix + name] = float(value)
    return numbers
