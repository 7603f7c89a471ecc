"""Atari games on the vector environment of ale-py, which steps and preprocesses them in C++ threads.

An observation is the last four planes of 84 x 84 gray pixels, the newest last. An action is held for four
frames of the game, and a plane is the larger of the last two of these, pixel by pixel. An episode begins with
0 to 29 frames without an action. Rewards are those of the game, and a lost life does not end an episode.

The library has no snapshots: a restored environment repeats its episode from the seed.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8
from packaging.version import Version

from poise.arrays import ArraysError
from poise.envs.checking import EnvFault
from poise.envs.forms.text import parse
from poise.envs.packing import Obs, pack
from poise.envs.replay.unfinished import Unfinished
from poise.envs.vector import EnvError, EnvStep, Restored
from poise.spec import Leaf, Part, Spec
from poise.system.cores import num_cores
from poise.system.extras import needs

PLANES, SIDE = 4, 84  # of an observation; pixels
NOOPS = 29  # frames without an action at the start of an episode, at most
HEIGHT, WIDTH = 210, 160  # pixels of the screen of most games
FRAME_RATE = 60.0  # frames per second of a game
OLDEST = "0.12.1"  # the first version of ale-py that resets some of its environments and leaves the others
_LAST_SEED = 2**31 - 1  # of the library
_UNLIMITED = 2**30  # frames: the time limit is counted here
_PLAIN, _VECTOR = "ale_py.env:AtariEnv", "ale_py.vector_env:AtariVectorEnv"  # what ale-py registers
_SETTINGS = {
    "game",
    "frameskip",
    "repeat_action_probability",
    "full_action_space",
    "max_num_frames_per_episode",
}


def settings_of(id: str) -> dict[str, Any] | None:
    """The arguments of a game for this backend, if its id is registered as ale-py registers ``ALE/Pong-v5``.

    None if the id is not registered, or as something that the vector environment does not have: another
    class, a wrapper, another kind of observation; or if ``id`` has such arguments or wrappers.
    """
    variant = parse(id)
    spec = gym.registry.get(variant.env.name.rpartition(":")[2])
    if spec is None or (spec.entry_point, spec.vector_entry_point) != (_PLAIN, _VECTOR):
        return None
    if spec.additional_wrappers or spec.max_episode_steps is not None or set(spec.kwargs) != _SETTINGS:
        return None
    if variant.wrappers or not variant.env.kwargs.keys() <= _SETTINGS - {"game"}:
        return None
    settings = {**spec.kwargs, **variant.env.kwargs}
    counts = settings["frameskip"], settings["max_num_frames_per_episode"]
    return settings if all(isinstance(n, int) and n > 0 for n in counts) else None


class AtariEnv:
    """N games of one kind, stepped by a few threads. The result does not depend on the number of threads.

    Args:
        id: of the game, registered as ale-py registers it (``settings_of``).
        num_envs: how many.
        first: the number of the first environment in error messages.
        time_limit: in steps; None: that of the registered id, 27,000 steps or half an hour of the game.

    Raises:
        EnvError: ale-py is too old, or has no such game.
    """

    def __init__(self, id: str, num_envs: int, *, first: int = 0, time_limit: int | None = None):
        num_threads = min(num_cores(), num_envs)
        self.num_envs = num_envs
        self.backend = f"atari ({num_threads} thread{'s' * (num_threads > 1)})"
        settings = _settings(id)
        planes = {"stack_num": PLANES, "img_height": SIDE, "img_width": SIDE}
        self._env: Any = _make(id, settings, num_envs=num_envs, num_threads=num_threads, **planes)
        self._limit = time_limit or settings["max_num_frames_per_episode"] // settings["frameskip"]
        self._num_actions = int(self._env.single_action_space.n)
        leaf = Leaf((), "image", (PLANES, SIDE, SIDE), low=0.0, high=255.0, channels=0)
        self.spec = Spec(id, (leaf,), (Part((), (), sizes=(self._num_actions,), first=(0,)),), self._limit)
        self._episodes = Unfinished(id, self._env.action_space, range(first, first + num_envs))

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Obs:
        self._episodes.begin(mask, seeds)
        return self._packed(self._begin(mask))

    def _begin(self, mask: Bool[np.ndarray, " N"]) -> UInt8[np.ndarray, "N planes height width"]:
        """Start the episodes in the environments of ``mask``; the observations of all."""
        seeds = self._episodes.seed[mask] & _LAST_SEED
        obs, _ = self._env.reset(seed=seeds, options={"reset_mask": np.asarray(mask)})
        self._episodes.sums.begin(mask, [obs[:, -1]])
        return obs

    def step(self, action: Shaped[np.ndarray, " N"]) -> EnvStep:
        action = action.astype(np.int64)
        self._refuse_others(action)
        obs, reward, terminated, truncated = self._advance(action, self._episodes.tape.length)
        self._episodes.add(action, [obs[:, -1]], reward, terminated, truncated)
        return EnvStep(self._packed(obs), reward, terminated, truncated)

    def _refuse_others(self, action: Int[np.ndarray, " N"]) -> None:
        """Refuse an action that the game does not have: the library would wait forever."""
        bad = np.flatnonzero((action < 0) | (action >= self._num_actions))
        if len(bad):
            place = self._episodes.place(int(bad[0]), action)
            last = self._num_actions - 1
            raise EnvFault(f"{place}: action {action[bad[0]]} is not one of 0 to {last}")

    def _advance(self, action: Int[np.ndarray, " N"], steps: Int[np.ndarray, " N"]) -> EnvStep:
        """One step of all, with the library's observations. ``steps``: of each episode before it.

        Time limits are counted here: at its own limit, the library returns an observation whose newest plane
        is partly that of the step before.
        """
        obs, reward, terminated, _, _ = self._env.step(action)
        truncated = (steps + 1 >= self._limit) & ~terminated
        return EnvStep(obs, reward.astype(np.float64), terminated, truncated)

    def snapshot(self) -> dict[str, np.ndarray]:
        """``returned``: checksums of the newest planes, rewards and ends of unfinished episodes."""
        return self._episodes.snapshot()

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        """Reset each environment with the seed of its episode, and repeat all actions.

        All environments step together, so one whose episode is shorter begins later.
        """
        episodes = self._episodes
        episodes.put(arrays, {"returned": episodes.seed})
        rows = episodes.tape.rows()
        if rows.size and (rows.min() < 0 or rows.max() >= self._num_actions):
            raise ArraysError("array 'action': a value is out of range")
        starts = len(rows) - episodes.tape.length
        obs = self._begin(np.ones(self.num_envs, bool))
        for i, action in enumerate(rows):
            if i and (starts == i).any():
                self._begin(starts == i)
            obs, reward, terminated, truncated = self._advance(action, i - starts)
            episodes.sums.add([obs[:, -1]], reward, terminated, truncated)
        if len(rows) and (starts == len(rows)).any():
            obs = self._begin(starts == len(rows))
        return Restored(self._packed(obs), episodes.sums.values() == arrays["returned"])

    def _packed(self, obs: UInt8[np.ndarray, "N planes ..."]) -> Obs:
        return pack(self.spec, obs, self.num_envs)

    def close(self) -> None:
        """End the threads and free the games."""
        self._env = None


class Screen:
    """One game as people see it, in color: the same episodes as those of an ``AtariEnv``.

    Attributes:
        steps_a_second: of the game, as a person plays it.
    """

    def __init__(self, id: str):
        settings = _settings(id)
        self.steps_a_second = FRAME_RATE / settings["frameskip"]
        size = {"img_height": HEIGHT, "img_width": WIDTH}
        self._env: Any = _make(id, settings, num_envs=1, grayscale=False, stack_num=1, **size)

    def reset(self, seed: int) -> UInt8[np.ndarray, "height width 3"]:
        return self._env.reset(seed=np.array([seed & _LAST_SEED]))[0][0, 0]

    def step(self, action: Int[np.ndarray, " 1"]) -> UInt8[np.ndarray, "height width 3"]:
        return self._env.step(action.astype(np.int64))[0][0, 0]


def _settings(id: str) -> dict[str, Any]:
    settings = settings_of(id)
    assert settings is not None, "resolve has found them"
    return settings


def _make(id: str, settings: Mapping[str, Any], **others: Any) -> Any:
    """The library's vector environment.

    Raises:
        EnvError: ale-py is too old, or has no such game.
    """
    version = importlib.metadata.version("ale-py")
    if Version(version) < Version(OLDEST):
        raise EnvError(f"{id}: ale-py {version} is too old; it needs {OLDEST} or newer: {needs('atari')}")
    from ale_py.vector_env import AtariVectorEnv  # pyright: ignore[reportMissingImports]

    kept = {"noop_max": NOOPS + 1, "use_fire_reset": False, "reward_clipping": False}
    limit = {"max_num_frames_per_episode": _UNLIMITED}
    try:
        return AtariVectorEnv(**{**settings, **kept, **limit, **others})
    except (AssertionError, gym.error.Error) as error:
        raise EnvError(f"{id}: {error}") from error
