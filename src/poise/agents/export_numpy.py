"""An export as a Python file that needs NumPy alone."""

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from poise.agents.export_plan import ParityError, Plan

SECONDS = 60.0  # for an exported file to act on them

HEAD = '''"""A trained policy. It needs NumPy and nothing else.

    from policy import act  # policy.py is this file
    action = act(obs)       # a raw observation of the environment, or a batch with one leading axis more

ABOUT names the environment and the shapes. The action is the greedy one, in the environment's units and
bounds.
"""

import base64
import json

import numpy as np

ABOUT = json.loads({about})


def _array(shape, text):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape).astype(np.float32)


'''

TAIL = """

if __name__ == "__main__":
    print(json.dumps(ABOUT, indent=2))
    print("at an observation of zeros:", act(np.zeros(ABOUT["obs_shape"])))
"""


def write(plan: Plan) -> bytes:
    """A Python module: the parameters, and a function ``act`` with only the steps that this policy has."""
    arrays: dict[str, np.ndarray | None] = {"ORIGIN": plan.origin, "MEAN": plan.mean, "STD": plan.std}
    arrays |= {"CENTER": plan.center, "SCALE": plan.scale, "LOW": plan.low, "HIGH": plan.high}
    for i, (weight, bias) in enumerate(plan.layers, start=1):
        arrays |= {f"WEIGHT_{i}": weight, f"BIAS_{i}": bias}
    constants = [_constant(name, array) for name, array in arrays.items() if array is not None]
    lines = [
        "def act(obs):",
        '    """The greedy action for one raw observation, or for a batch of them."""',
        f"    obs = np.asarray(obs, np.{'float32' if plan.origin is None else 'float64'})",
        '    single = obs.shape == tuple(ABOUT["obs_shape"])',
        f"    x = obs.reshape(-1, {len(plan.layers[0][0])})",
    ]
    if plan.origin is not None:
        lines.append("    x = (x - ORIGIN).astype(np.float32)  # float64 first: float32 has too few digits")
    if plan.mean is not None:
        lines.append("    x = (x - MEAN) / STD")
    if plan.limit is not None:
        lines.append(f"    x = np.clip(x, np.float32({-plan.limit!r}), np.float32({plan.limit!r}))")
    activate = {"tanh": "np.tanh({})", "relu": "np.maximum({}, np.float32(0))"}[plan.activation]
    last = len(plan.layers)
    for i in range(1, last):
        lines.append(f"    x = {activate.format(f'x @ WEIGHT_{i} + BIAS_{i}')}")
    lines.append(f"    x = x @ WEIGHT_{last} + BIAS_{last}")
    if plan.head_tanh:
        lines.append("    x = np.tanh(x)")
    if plan.discrete:
        lines.append('    action = np.argmax(x, axis=1) + ABOUT["first_choice"]')
        lines.append("    return int(action[0]) if single else action")
    else:
        lines.append("    x = np.clip(CENTER + SCALE * x, LOW, HIGH)")
        lines.append('    action = x.reshape(-1, *ABOUT["action_shape"])')
        lines.append("    return action[0] if single else action")
    head = HEAD.format(about=repr(json.dumps(plan.about)))
    text = head + "\n".join(constants) + "\n\n\n" + "\n".join(lines) + "\n" + TAIL
    return text.encode()


def _constant(name: str, array: np.ndarray) -> str:
    """The assignment of a constant: little-endian 32-bit floats in base64, 88 characters a line."""
    packed = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
    parts = [packed[i : i + 88] for i in range(0, len(packed), 88)]
    if len(parts) == 1:
        return f'{name} = _array({array.shape}, "{packed}")'
    quoted = "\n".join(f'    "{part}"' for part in parts)
    return f"{name} = _array(\n    {array.shape},\n{quoted},\n)"


# runs an exported file in a process that cannot import poise, with nothing but the file and NumPy
_ACTING = """
import runpy, sys
sys.modules["poise"] = None
import numpy as np
act = runpy.run_path(sys.argv[1])["act"]
with np.errstate(over="ignore", invalid="ignore"):
    np.save(sys.argv[3], act(np.load(sys.argv[2], allow_pickle=False)))
"""


def act(path: Path, obs: Float[np.ndarray, "N *O"]) -> Shaped[np.ndarray, "N *A"]:
    """The actions of an exported file, run in a process of its own.

    Raises:
        ParityError: it fails, or takes longer than ``SECONDS``.
    """
    with tempfile.TemporaryDirectory() as folder:
        obs_file, action_file = Path(folder) / "obs.npy", Path(folder) / "action.npy"
        np.save(obs_file, obs)
        words = [sys.executable, "-I", "-B", "-c", _ACTING, str(path)]
        try:
            process = subprocess.run(
                [*words, str(obs_file), str(action_file)],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ParityError(f"the exported policy did not act within {SECONDS:g} s") from error
        if process.returncode:
            raise ParityError(f"the exported policy cannot act: {process.stderr.strip()[-200:]}")
        return np.load(action_file, allow_pickle=False)
