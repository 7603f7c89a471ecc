"""``poise export``: the whole greedy policy, raw observation to environment action, without poise.

As a Python file that needs NumPy alone, or as an ONNX graph. Whatever is written is run, and compared with
the agent, before it counts as written.
"""

import base64
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

from poise.agents.agent import Agent
from poise.algo.networks import GaussianPolicy
from poise.errors import PoiseError
from poise.store.checkpoint import Manifest, Trained, Which, agent_folder, load_agent
from poise.store.files import check_room, fresh_path
from poise.system.extras import needs
from poise.training.acting import ActionScale, Actor, quiet

Format = Literal["numpy", "onnx"]

OPSET, IR_VERSION = 17, 8  # of 2022, so that runtimes of that year read it, too
ROWS = 1000  # on which an export is compared with the agent
TOLERANCE = 1e-5  # of half the range of an action, or of the action where that is larger
SECONDS = 60.0  # for an exported file to act on them


class ExportError(PoiseError):
    """An export that cannot be made."""


class ParityError(PoiseError):
    """An exported policy that does not act as the agent does."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """The greedy policy as arithmetic: (obs - mean) / std, clipped; layers; a tanh; the scale of actions.

    Attributes:
        origin: what is subtracted from an observation in float64 before all else; None: nothing.
        mean, std: of what is left of the observations; None where they are not normalized.
        limit: bound on what follows from them; None: no bound.
        layers: weights ``[inputs, outputs]`` and biases. Of a predicted deviation nothing is left.
        head_tanh: whether a tanh follows the last layer.
        center, scale, low, high: action = clip(center + scale * output, low, high); None where discrete.
        about: what it is, in numbers and strings.
    """

    origin: Float[np.ndarray, " O"] | None
    mean: Float[np.ndarray, " O"] | None
    std: Float[np.ndarray, " O"] | None
    limit: float | None
    layers: tuple[tuple[Float[np.ndarray, "_ _"], Float[np.ndarray, " _"]], ...]
    activation: Literal["tanh", "relu"]
    head_tanh: bool
    center: Float[np.ndarray, " A"] | None
    scale: Float[np.ndarray, " A"] | None
    low: Float[np.ndarray, " A"] | None
    high: Float[np.ndarray, " A"] | None
    about: dict[str, Any]

    @property
    def discrete(self) -> bool:
        return self.scale is None


def make_plan(trained: Trained, manifest: Manifest) -> Plan:
    """The arithmetic of an agent."""
    policy, spec, config = trained.policy, manifest.spec, manifest.config
    weights, biases = ([np.asarray(x, np.float32) for x in xs] for xs in (policy.mlp.weight, policy.mlp.bias))
    size = spec.action_size  # behind it: what predicts the deviation
    weights[-1], biases[-1] = weights[-1][:, :size], biases[-1][:size]
    bounds = None if spec.discrete else ActionScale(spec, normalize=config.normalize.action)
    stats = trained.normalizer.obs if config.normalize.obs else None
    origin = trained.normalizer.origin
    return Plan(
        origin=None if origin is None else np.asarray(origin, np.float32),
        mean=None if stats is None else np.asarray(stats.mean, np.float32),
        std=None if stats is None else np.asarray(stats.std, np.float32),
        limit=config.normalize.obs_bound,
        layers=tuple(zip(weights, biases, strict=True)),
        activation=policy.mlp.activation,
        head_tanh=isinstance(policy, GaussianPolicy) and policy.head_tanh != "none",
        center=bounds and bounds.center,
        scale=bounds and bounds.scale,
        low=bounds and bounds.low,
        high=bounds and bounds.high,
        about={
            "env": manifest.env,
            "steps": manifest.steps,
            "seed": config.seed,
            "obs_shape": list(spec.obs_shape),
            "action_shape": list(spec.action_shape),
            "first_choice": spec.first_choice,
        },
    )


@dataclass(frozen=True)
class Exported:
    """A policy as a file, and how far it is from the agent at most, on ``ROWS`` observations."""

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
        out: the file; by default ``policy.py`` or ``policy.onnx`` in ``run``, of the best ``best_policy``.

    Raises:
        CheckpointError: there is no agent, or it was changed or damaged.
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
    """Around what was observed, most of them as usual, some so far away that bounds are reached.

    The first is the mean itself.
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
    """The largest difference to what the agent does, of which a bound holds."""
    obs = observations(plan)
    meant = np.asarray(agent.act(obs))
    if action.shape != meant.shape:
        raise ParityError(f"the exported policy gives actions of shape {action.shape}, not {meant.shape}")
    if plan.discrete:
        other = np.flatnonzero(action != meant)
        with quiet():
            logits = network.forward(obs.reshape(ROWS, -1))
        if len(wrong := other[_gap(logits)[other] > TOLERANCE]):
            raise ParityError(f"the exported policy chooses otherwise on {len(wrong)} of {ROWS} observations")
        return 0.0
    assert plan.scale is not None
    rows, ours = (np.asarray(a, float).reshape(ROWS, -1) for a in (meant, action))
    difference = np.abs(ours - rows) / np.maximum(np.abs(rows), plan.scale)
    largest = float(np.max(difference, initial=0.0))
    if not largest <= TOLERANCE:  # nor is NaN
        raise ParityError(
            f"the exported policy's actions differ from the agent's by up to {largest:.2g} "
            "(half the action range = 1), "
            f"{TOLERANCE:g} is allowed"
        )
    return float(np.max(np.abs(ours - rows), initial=0.0))


def _gap(logits: Float[np.ndarray, "N choices"]) -> Float[np.ndarray, " N"]:
    """How far the best choice is above the next: where that is nothing, either will do."""
    ranked = np.sort(logits, axis=1)
    return ranked[:, -1] - ranked[:, -2] if ranked.shape[1] > 1 else np.full(len(ranked), np.inf)


HEAD = '''"""A trained policy. It needs NumPy, and nothing else.

    from policy import act  # policy.py is this file
    action = act(obs)      # a raw observation of the environment, or a batch with one axis more in front

ABOUT says of which environment it is. The action is the greedy one, in the environment's units and bounds.
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


def _numpy_file(plan: Plan) -> bytes:
    """A module with the parameters in it, and only the steps that this policy has."""
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
    packed = base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()
    parts = [packed[i : i + 88] for i in range(0, len(packed), 88)]
    if len(parts) == 1:
        return f'{name} = _array({array.shape}, "{packed}")'
    quoted = "\n".join(f'    "{part}"' for part in parts)
    return f"{name} = _array(\n    {array.shape},\n{quoted},\n)"


# what acts with an exported file: in a process that cannot import poise, with nothing but the file and NumPy
_ACTING = """
import runpy, sys
sys.modules["poise"] = None
import numpy as np
act = runpy.run_path(sys.argv[1])["act"]
with np.errstate(over="ignore", invalid="ignore"):
    np.save(sys.argv[3], act(np.load(sys.argv[2], allow_pickle=False)))
"""


def _act_numpy(path: Path, obs: Float[np.ndarray, "N *O"]) -> Shaped[np.ndarray, "N *A"]:
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder) / "obs.npy", Path(folder) / "action.npy"
        np.save(given, obs)
        words = [sys.executable, "-I", "-B", "-c", _ACTING, str(path)]
        try:
            done = subprocess.run(
                [*words, str(given), str(taken)], capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ParityError(f"the exported policy did not act within {SECONDS:g} s") from error
        if done.returncode:
            raise ParityError(f"the exported policy cannot act: {done.stderr.strip()[-200:]}")
        return np.load(taken, allow_pickle=False)


def _onnx() -> Any:
    """The package, or what to install."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ExportError(f"format onnx {needs('onnx')}") from error
    return onnx


def _onnx_file(plan: Plan) -> bytes:
    """The graph: ``obs`` [N, ...] float32 to ``action`` [N, ...] float32, or int64 [N] of choices.

    With an origin ``obs`` is float64: a float32 would have lost what the policy acts on.
    """
    onnx = _onnx()
    make, nodes, constants = onnx.helper, [], []
    obs_shape, action_shape = plan.about["obs_shape"], plan.about["action_shape"]

    def constant(name: str, array: Any) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def then(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(make.make_node(kind, list(inputs), [f"x{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    x = then("Reshape", "obs", constant("rows", np.array([-1, math.prod(obs_shape)], np.int64)))
    if plan.origin is not None:
        x = then("Sub", x, constant("origin", plan.origin.astype(np.float64)))
        x = then("Cast", x, to=onnx.TensorProto.FLOAT)
    if plan.mean is not None:
        x = then("Sub", x, constant("mean", plan.mean))
        x = then("Div", x, constant("std", plan.std))
    if plan.limit is not None:
        bounds = (constant(name, np.float32(v)) for name, v in (("least", -plan.limit), ("most", plan.limit)))
        x = then("Clip", x, *bounds)
    for i, (weight, bias) in enumerate(plan.layers, start=1):
        x = then("Gemm", x, constant(f"weight{i}", weight), constant(f"bias{i}", bias))
        if i < len(plan.layers):
            x = then({"tanh": "Tanh", "relu": "Relu"}[plan.activation], x)
    if plan.head_tanh:
        x = then("Tanh", x)
    if plan.discrete:
        x = then("ArgMax", x, axis=1, keepdims=0)
        x = then("Add", x, constant("first_choice", np.int64(plan.about["first_choice"])))
        kind = onnx.TensorProto.INT64
    else:
        x = then("Add", then("Mul", x, constant("scale", plan.scale)), constant("center", plan.center))
        x = then("Min", then("Max", x, constant("low", plan.low)), constant("high", plan.high))
        x = then("Reshape", x, constant("shape", np.array([-1, *action_shape], np.int64)))
        kind = onnx.TensorProto.FLOAT
    nodes[-1].output[0] = "action"
    given = onnx.TensorProto.FLOAT if plan.origin is None else onnx.TensorProto.DOUBLE
    graph = make.make_graph(
        nodes,
        "policy",
        [make.make_tensor_value_info("obs", given, ["N", *obs_shape])],
        [make.make_tensor_value_info("action", kind, ["N", *([] if plan.discrete else action_shape)])],
        constants,
    )
    model = make.make_model(
        graph,
        producer_name="poise",
        opset_imports=[make.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string="A trained policy: raw observations in, the environment's greedy actions out.",
    )
    make.set_model_props(model, {name: json.dumps(value) for name, value in plan.about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _act_onnx(path: Path, obs: Float[np.ndarray, "N *O"]) -> Shaped[np.ndarray, "N *A"]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"format onnx, compared with the agent by onnxruntime, {needs('onnx')}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["action"], {"obs": obs})[0])


FORMATS: dict[Format, tuple[str, Callable[[Plan], bytes], Callable[..., np.ndarray]]] = {
    "numpy": (".py", _numpy_file, _act_numpy),
    "onnx": (".onnx", _onnx_file, _act_onnx),
}
