"""``poise export``: the whole greedy policy, raw observation to environment action, without poise.

As a Python file that needs NumPy alone, or as an ONNX graph. Every file is run and compared with the agent
before it counts as written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from poise.agents import export_numpy, export_onnx
from poise.agents.agent import Agent
from poise.agents.export_plan import ExportError, ParityError, Plan, make_plan
from poise.store.checkpoint import Which, agent_folder, load_agent
from poise.store.files import check_room, fresh_path
from poise.training.acting import Actor, quiet

Format = Literal["numpy", "onnx"]

ROWS = 1000  # on which an export is compared with the agent
TOLERANCE = 1e-5  # relative to half the range of an action, or to the action if that is larger


@dataclass(frozen=True)
class Exported:
    """A policy as a file, and its largest difference to the agent's actions on ``ROWS`` observations."""

    path: Path
    difference: float

    def to_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "observations": ROWS, "largest_difference": self.difference}


def export(
    run: Path, *, format: Format = "numpy", which: Which = "last", out: Path | None = None
) -> Exported:
    """Writes the policy of a run, and compares what was written with the agent.

    Args:
        run: its folder, or a checkpoint.
        format: "numpy": a Python file that needs NumPy alone; "onnx": a graph (opset 17).
        which: the last agent, or the best.
        out: the file; by default ``policy.py`` or ``policy.onnx`` in ``run``, or ``best_policy.py`` or
            ``best_policy.onnx`` for the best agent.

    Raises:
        CheckpointError: the folder holds no agent, or the agent was changed or damaged.
        ExportError: the extra ``onnx`` is not installed, or the file cannot be written.
        ParityError: the exported policy's actions differ from the agent's. The file is removed.
    """
    trained, manifest = load_agent(agent_folder(run, which))
    plan, agent = make_plan(trained, manifest), Agent(trained, manifest)
    network = Actor(trained.policy, trained.normalizer, manifest.config.normalize)
    ending, write, act = FORMATS[format]
    name = f"{'best_' if which == 'best' else ''}policy{ending}"
    path = run / name if out is None else out
    try:
        with fresh_path(path) as fresh:
            fresh.write_bytes(write(plan))
            difference = _compare(act(fresh, observations(plan)), agent, network, plan)
    except OSError as error:
        check_room(path, error)
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error
    return Exported(path, difference)


def observations(plan: Plan) -> Float[np.ndarray, "N *O"]:
    """Random observations on which an export is compared with the agent.

    70% have the spread of those seen in training; the others lie 10 or 100 times as far from the mean, so
    that the bounds of observations and of actions are reached. The first one is the mean itself.
    """
    rng = np.random.default_rng(0)
    size = len(plan.layers[0][0])
    mean, std = (np.zeros(size), np.ones(size)) if plan.mean is None else (plan.mean, plan.std)
    assert std is not None
    spread = rng.choice([1.0, 10.0, 100.0], size=(ROWS, 1), p=[0.7, 0.2, 0.1])
    spread[0] = 0
    rows = mean + std * spread * rng.standard_normal((ROWS, size))
    rows = rows.astype(np.float32) if plan.origin is None else rows + plan.origin.astype(np.float64)
    return rows.reshape(ROWS, *plan.about["obs_shape"])


def _compare(action: np.ndarray, agent: Agent, network: Actor, plan: Plan) -> float:
    """The largest difference to the agent's actions, in the environment's units; 0 if actions are discrete.

    Raises:
        ParityError: it is larger than ``TOLERANCE`` allows.
    """
    obs = observations(plan)
    expected = np.asarray(agent.act(obs))
    if action.shape != expected.shape:
        raise ParityError(f"the exported policy gives actions of shape {action.shape}, not {expected.shape}")
    if plan.discrete:
        different = np.flatnonzero(action != expected)
        with quiet():
            logits = network.forward(obs.reshape(ROWS, -1))
        # of two choices with the same logit either is right
        if len(wrong := different[_gap(logits)[different] > TOLERANCE]):
            raise ParityError(
                f"the exported policy's choice differs from the agent's on {len(wrong)} of {ROWS} "
                "observations"
            )
        return 0.0
    assert plan.scale is not None
    agents, exported = (np.asarray(a, float).reshape(ROWS, -1) for a in (expected, action))
    difference = np.abs(exported - agents)
    largest = float(np.max(difference / np.maximum(np.abs(agents), plan.scale), initial=0.0))
    if not largest <= TOLERANCE:  # NaN is an error, too
        raise ParityError(
            f"the exported policy's actions differ from the agent's by up to {largest:.2g} "
            "(half the action range = 1), "
            f"{TOLERANCE:g} is allowed"
        )
    return float(np.max(difference, initial=0.0))


def _gap(logits: Float[np.ndarray, "N choices"]) -> Float[np.ndarray, " N"]:
    """How much the largest logit exceeds the second largest; infinite if there is one choice."""
    ranked = np.sort(logits, axis=1)
    return ranked[:, -1] - ranked[:, -2] if ranked.shape[1] > 1 else np.full(len(ranked), np.inf)


# suffix; what writes the file; what acts with it on observations
FORMATS: dict[Format, tuple[str, Callable[[Plan], bytes], Callable[..., np.ndarray]]] = {
    "numpy": (".py", export_numpy.write, export_numpy.act),
    "onnx": (".onnx", export_onnx.write, export_onnx.act),
}
