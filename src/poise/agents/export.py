"""``poise export``: the whole greedy policy, raw observation to environment action, without poise.

As a Python file that needs NumPy alone, or as an ONNX graph. Every file is run and compared with the agent
before it counts as written.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from poise.agents import export_numpy, export_onnx
from poise.agents.agent import Agent
from poise.agents.export_parity import ROWS, SEQUENCES, compare, trials
from poise.agents.export_parity import observations as observations
from poise.agents.export_plan import ExportError, Plan, make_plan
from poise.checked import Place, as_path
from poise.store.checkpoint import Which, agent_folder, load_agent, read_manifest
from poise.store.files import check_room, fresh_path

Format = Literal["numpy", "onnx"]


@dataclass(frozen=True)
class Exported:
    """A policy as a file, and its largest difference to the agent's actions.

    ``sequences``: on how many they were compared besides ``ROWS`` single observations.
    """

    path: Path
    difference: float
    sequences: int = 0

    def to_dict(self) -> dict[str, Any]:
        sequences = {"sequences": self.sequences} if self.sequences else {}
        about = {"path": str(self.path), "observations": ROWS, **sequences}
        return {**about, "largest_difference": self.difference}


def export(
    run: Place, *, format: Format = "numpy", which: Which = "last", out: str | os.PathLike[str] | None = None
) -> Exported:
    """Writes the policy of a run, and compares what was written with the agent.

    Args:
        run: what ``train`` returned, its folder, or a checkpoint in it.
        format: "numpy": a Python file that needs NumPy alone; "onnx": a graph (opset 17).
        which: the last agent, or the best.
        out: the file; by default ``policy.py`` or ``policy.onnx`` in ``run``, or ``best_policy.py`` or
            ``best_policy.onnx`` for the best agent.

    Raises:
        CheckpointError: the folder holds no agent, or the agent was changed or damaged.
        ExportError: the extra ``onnx`` is not installed, the format cannot hold images, or the file cannot
            be written.
        ParityError: the exported policy's actions differ from the agent's. The file is removed.
    """
    run = as_path("run", run)
    folder = agent_folder(run, which)
    if (network := read_manifest(folder).config.policy.network) is not None:
        raise ExportError(
            f"{run}: policy.network = {network!r}: poise export knows poise's own layers only; act with "
            "poise.load, which runs the class itself"
        )
    trained, manifest = load_agent(folder)
    plan, agent = make_plan(trained, manifest), Agent(trained, manifest)
    ending, write, act = FORMATS[format]
    name = f"{'best_' if which == 'best' else ''}policy{ending}"
    path = run / name if out is None else as_path("out", out)
    content = write(plan)
    try:
        with fresh_path(path) as fresh:
            fresh.write_bytes(content)
            difference = max(
                compare(trial, act(fresh, trial.obs, trial.mask, trial.begins), agent, trained, plan)
                for trial in trials(plan)
            )
    except OSError as error:
        check_room(path, error)
        raise ExportError(f"{path}: cannot be written: {error.strerror}") from error
    return Exported(path, difference, SEQUENCES if plan.memory is not None else 0)


# suffix; what writes the file; what acts with it on observations
FORMATS: dict[Format, tuple[str, Callable[[Plan], bytes], Callable[..., Any]]] = {
    "numpy": (".py", export_numpy.write, export_numpy.act),
    "onnx": (".onnx", export_onnx.write, export_onnx.act),
}
