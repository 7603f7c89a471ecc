"""The DM Control suite of MuJoCo Playground: ``playground:CartpoleBalance``. The only file that imports it.

Its robots (locomotion, manipulation) are left out: they download their models when they are made.
"""

from typing import Any

import jax
import mujoco
import numpy as np
from jaxtyping import UInt8

from poise.envs.native.brax_style import BraxStyle, their_ways
from poise.envs.native.jax_env import JaxEnv

with their_ways():
    from mujoco_playground import registry

_mj: Any = mujoco
SIZE = 480  # pixels


def names() -> list[str]:
    return list(registry.dm_control_suite.ALL_ENVS)


def make(name: str) -> JaxEnv:
    with their_ways():
        config: Any = registry.get_default_config(name)
        # JAX's implementation runs on every device; the other one, Warp, on NVIDIA's alone
        env = registry.load(name, config_overrides={"impl": "jax"})
    return _Playground(env, config.episode_length)


class _Playground(BraxStyle):
    """One of them, drawn by MuJoCo."""

    def draw(self, state: Any, action: Any | None) -> UInt8[np.ndarray, "height width 3"]:
        from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

        if not hasattr(self, "_viewer"):
            self._data = _mj.MjData(self.env.mj_model)
            self._viewer: Any = OffScreenViewer(self.env.mj_model, self._data, SIZE, SIZE)
        for field in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
            getattr(self._data, field)[:] = jax.device_get(getattr(state.data, field))
        _mj.mj_forward(self.env.mj_model, self._data)
        camera = 0 if self.env.mj_model.ncam else None  # its authors' first one
        return np.ascontiguousarray(self._viewer.render("rgb_array", camera_id=camera))
