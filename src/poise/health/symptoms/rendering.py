"""The rule about rendering: whether a video of the trained agent can be made."""

import inspect
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from poise.agents.stages import checked_frame
from poise.envs.forms.arguments import takes
from poise.envs.forms.making import find_function, registered_name
from poise.envs.forms.text import parse
from poise.envs.naming import is_anothers
from poise.envs.native.jax_env import JaxEnv
from poise.errors import message_of
from poise.health.findings import Finding
from poise.health.probing import Play


def check_rendering(play: Play) -> Iterator[Finding]:
    """An environment of the user can be made with render_mode="rgb_array", and draws itself.

    Nothing is drawn here: without a screen that can fail for other reasons. Only the ``draw`` of a class in
    JAX, which has no screen, draws the start. Tasks of poise's own backends and Gymnasium's environments are
    not checked.
    """
    if play.kind == "jax":
        yield from _check_draw(play.env.unwrapped)
        return
    if play.kind != "gymnasium":
        return
    function = find_function(parse(play.id).env.name)
    if function is None and not is_anothers(registered_name(play.id)):
        return
    spec = None if function is not None else gym.spec(registered_name(play.id))
    if not (takes(function, "render_mode") if function is not None else _takes_render_mode(spec)):
        missing = "it cannot be made with a render_mode"
    elif not _has_render(play.env):
        missing = "it has no render()"
    elif spec is not None and _is_unlisted(spec, play.env):
        missing = 'its metadata["render_modes"] does not list it'
    else:
        return
    yield Finding(
        "no-render-mode",
        "note",
        f'no render_mode "rgb_array": {missing}',
        "No video of the agent can be made. The training itself is not affected.",
        'set metadata = {"render_modes": ["rgb_array"]}, accept render_mode in __init__ and return an image '
        "from render(); or train with --no-video",
    )


def _check_draw(adapter: Any) -> Iterator[Finding]:
    """A class in JAX of the user draws a picture of a start. Those of packages are taken as they are."""
    env = adapter.env_in_jax
    if type(env).__module__.partition(".")[0] == "poise":
        return
    if type(env).draw is JaxEnv.draw:
        problem = "there is no draw(state, action)"
    else:
        try:
            adapter.reset(seed=0)
            checked_frame(adapter.draw(), "draw()")
            return
        except Exception as error:  # it is the user's
            problem = message_of(error).removeprefix("TypeError: ")
    yield Finding(
        "no-draw",
        "note",
        f"no picture: {problem}",
        "No video of the agent can be made. The training itself is not affected.",
        "return an image from draw(state, action), made with NumPy or Pillow; or train with --no-video",
    )


def _takes_render_mode(spec: Any) -> bool:
    """Whether the class or function that makes the environment accepts the argument; True if unknown."""
    entry = spec.entry_point
    try:
        maker = load_env_creator(entry) if isinstance(entry, str) else entry
        parameters = inspect.signature(maker).parameters
    except Exception:  # whatever a module raises, or a callable without a signature
        return True
    kinds = [parameter.kind for parameter in parameters.values()]
    return "render_mode" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _has_render(env: gym.Env) -> bool:
    """Whether the environment, or a wrapper of the user's, has a render method of its own."""
    while isinstance(env, gym.Wrapper):
        if getattr(type(env).render, "__module__", "").partition(".")[0] not in ("gymnasium", "poise"):
            return True
        env = env.env
    return type(env).render is not gym.Env.render


def _is_unlisted(spec: Any, env: gym.Env) -> bool:
    """Whether Gymnasium's checker, which a film runs with, refuses the mode that the environment stores."""
    modes = env.metadata.get("render_modes")
    stores_mode = "render_mode" in vars(env.unwrapped)
    listed = not isinstance(modes, list | tuple) or "rgb_array" in modes
    return stores_mode and not listed and not spec.disable_env_checker
