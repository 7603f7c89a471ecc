"""Craftax's environments: ``craftax:Craftax-Symbolic-v1``. The only file that imports craftax."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from craftax.craftax_env import make_craftax_env_from_name
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, UInt8

from poise.envs.native.brax_style import their_ways
from poise.envs.native.jax_env import JaxEnv

_NEVER = 2**30  # steps
_TIMES = 3  # pixels of a film for each pixel of a texture


def names() -> list[str]:
    """Those that craftax makes by name without its own resets."""
    return [f"Craftax-{kind}-v1" for kind in ("Symbolic", "Pixels", "Classic-Symbolic", "Classic-Pixels")]


def make(name: str) -> JaxEnv:
    game = f"craftax.{'craftax_classic' if 'Classic' in name else 'craftax'}"
    with their_ways(), _textures(game):
        return _CraftaxEnv(make_craftax_env_from_name(name, auto_reset=False), game)


class _CraftaxEnv(JaxEnv):
    """One of Craftax's. Its own time limit, an end like death, is put off; ``poise`` counts the steps."""

    fps = 10.0

    def __init__(self, env: Any, game: str):
        params = env.default_params
        self._env, self._game, self._params = env, game, params.replace(max_timesteps=_NEVER)
        self.time_limit = int(params.max_timesteps)
        space = env.observation_space(params)
        self.observation_space = gym.spaces.Box(float(space.low), float(space.high), space.shape)
        self.action_space = gym.spaces.Discrete(int(env.action_space(params).n))

    def reset(self, *, key: PRNGKeyArray) -> PyTree:
        with their_ways():
            return self._env.reset_env(key, self._params)[1]

    def observe(self, state: PyTree) -> Float[Array, "..."]:
        with their_ways():
            return self._env.get_obs(state)

    def step(
        self, state: PyTree, action: PyTree, *, key: PRNGKeyArray
    ) -> tuple[PyTree, Float[Array, ""], Bool[Array, ""]]:
        with their_ways():
            _, after, reward, terminated, _ = self._env.step_env(key, state, action, self._params)
        return after, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)

    def draw(self, state: PyTree, action: PyTree | None) -> UInt8[np.ndarray, "height width 3"]:
        with their_ways():
            pixels = np.asarray(self._render(state))
        return pixels.round().clip(0, 255).astype(np.uint8).repeat(_TIMES, axis=0).repeat(_TIMES, axis=1)

    @cached_property
    def _render(self) -> Any:
        with _textures(self._game):
            renderer = importlib.import_module(f"{self._game}.renderer")
            return jax.jit(renderer.make_craftax_pixel_renderer(renderer.BLOCK_PIXEL_SIZE_IMG))


@contextmanager
def _textures(game: str) -> Iterator[None]:
    """Textures are made in one size when they are asked for.

    Craftax makes those of three sizes, and writes them into the folder of its package.
    """
    renderer: Any = importlib.import_module(f"{game}.renderer")
    theirs = renderer.load_all_textures
    renderer.load_all_textures = lambda: _Textures(renderer.load_all_textures_given_size)
    try:
        yield
    finally:
        renderer.load_all_textures = theirs


class _Textures:
    """By the number of pixels of a block."""

    def __init__(self, load: Any):
        self._load = load

    def __getitem__(self, size: int) -> dict[str, Any]:
        return self._load(size)
