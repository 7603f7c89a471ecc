"""What MuJoCo warns of, for example that a simulation became unstable, said on standard error."""

import contextlib
import sys
from typing import Any

_said: set[str] = set()


def hear_mujoco() -> None:
    """Has MuJoCo's warnings said, each kind once, where MuJoCo is loaded.

    Left alone, it writes them to a file in the folder where the user stands.
    """
    mujoco: Any = sys.modules.get("mujoco")
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_say)


def _say(message: str) -> None:
    what, _, _ = message.partition(" Time = ")
    if "deprecated" in what:  # for the author of the MJCF file: Gymnasium's HalfCheetah-v5 has settotalmass
        return
    if what not in _said:
        _said.add(what)
        with contextlib.suppress(OSError):  # nobody reads it, and this is called from inside MuJoCo
            print(f"MuJoCo: {what}", file=sys.stderr)
