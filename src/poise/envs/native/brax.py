"""Brax's environments: ``brax:ant``. The only file that imports Brax. Its PPO is not used."""

from poise.envs.native.brax_style import BraxStyle, their_ways
from poise.envs.native.jax_env import JaxEnv

with their_ways():
    from brax import envs

LIMIT = 1000  # steps, of all of them


def names() -> list[str]:
    return sorted(set(envs._envs) - {"fast"})  # that one only serves Brax's tests


def make(name: str) -> JaxEnv:
    with their_ways():
        return BraxStyle(envs.get_environment(name), LIMIT)
