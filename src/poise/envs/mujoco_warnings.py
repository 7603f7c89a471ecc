"""MuJoCo's warnings, for example of an unstable simulation, shown on standard error."""

import contextlib
import sys
from typing import Any

_shown: set[str] = set()


def hear_mujoco() -> None:
    """Show each kind of MuJoCo warning once, if MuJoCo is loaded.

    By default MuJoCo writes them to a file in the working directory.
    """
    mujoco: Any = sys.modules.get("mujoco")
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_show)


def _show(message: str) -> None:
    kind, _, _ = message.partition(" Time = ")
    if "deprecated" in kind:  # for the author of the MJCF file: Gymnasium's HalfCheetah-v5 has settotalmass
        return
    if kind not in _shown:
        _shown.add(kind)
        with contextlib.suppress(OSError):  # standard error is closed; this is called from inside MuJoCo
            print(f"MuJoCo: {kind}", file=sys.stderr)
