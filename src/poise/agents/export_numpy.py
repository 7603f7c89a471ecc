"""An export as a Python file that needs NumPy alone."""

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from poise.agents.export_parity import flat, map_tree, nested, one_step
from poise.agents.export_plan import ExportError, ParityError, Plan, gives_one_array, reads_one_vector
from poise.algo.distributions import FORBIDDEN
from poise.algo.encoders import EPSILON
from poise.algo.memory import Cell
from poise.spec import Leaf, Part
from poise.training.acting import SELU, SELU_ALPHA

SECONDS = 60.0  # for an exported file to act on all observations

HEAD = '''"""A trained policy. It needs NumPy and nothing else.

{usage}

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

BATCH = "a raw observation of the environment, or a batch with one leading axis more"
USAGE = f"""\
    from policy import act  # policy.py is this file
    action = act({{words}})       # {BATCH}"""

USAGE_OF_MEMORY = f"""\
    from policy import act, start  # policy.py is this file
    carry = start()                # at the start of an episode; start(n) for n of them
    action, carry = act({{words}})   # {BATCH}"""

TAIL = """

if __name__ == "__main__":
    print(json.dumps(ABOUT, indent=2))
    print("at an observation of zeros:", act({zeros}))
"""

START = '''\
def start(n=1):
    """What the memory holds at the start of n episodes. Where a later one starts, set the row to 0."""
    return np.zeros((n, {size}), np.float32)'''

# functions of an exported file, each written only where it is called
FUNCTIONS = {
    "_one_hot": '''
def _one_hot(entries, sizes, first):
    """For each entry a number for each of its values: 1 for the value that it has, 0 for the others."""
    values = np.concatenate([np.arange(size) for size in sizes])
    return (np.repeat(entries - np.array(first), sizes, axis=1) == values).astype(np.float32)
''',
    "_elu": """
def _elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0))))
""",
    "_leaky_relu": """
def _leaky_relu(x):
    return np.maximum(x, 0.01 * x)
""",
    "_selu": f"""
def _selu(x):
    return {SELU!r} * np.where(x > 0, x, {SELU_ALPHA!r} * np.expm1(np.minimum(x, np.float32(0))))
""",
    "_gelu": """
def _gelu(x):
    return x * (0.5 * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3))))
""",
    "_silu": """
def _silu(x):
    return x * _sigmoid(x)
""",
    "_standardized": f"""
def _standardized(x):
    centered = x - x.mean(axis=1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + np.float32({EPSILON!r}))
""",
    "_remember_gru": """
def _remember_gru(x, carry):
    gates, fed_back, size = x @ FROM_INPUT + GATE_BIAS, carry @ FROM_MEMORY, 2 * len(FROM_MEMORY)
    r, z = np.split(_sigmoid(gates[:, :size] + fed_back[:, :size]), 2, axis=1)
    new = np.tanh(gates[:, size:] + r * fed_back[:, size:])
    return (1 - z) * new + z * carry
""",
    "_remember_lstm": """
def _remember_lstm(x, carry):
    hidden, cell = np.split(carry, 2, axis=1)
    i, f, g, o = np.split(x @ FROM_INPUT + GATE_BIAS + hidden @ FROM_MEMORY, 4, axis=1)
    cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
    return np.concatenate([_sigmoid(o) * np.tanh(cell), cell], axis=1)
""",
    "_remember_window": """
def _remember_window(x, carry):
    return np.concatenate([carry[:, x.shape[1] :], x], axis=1)
""",
    "_sigmoid": """
def _sigmoid(x):
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: then this is 0
        return 1 / (1 + np.exp(-x))
""",
    "_choose": '''
def _choose(logits, sizes, first):
    """The most probable value of each choice."""
    best = [np.argmax(x, axis=1) for x in np.split(logits, np.cumsum(sizes)[:-1], axis=1)]
    return np.stack(best, axis=1) + np.array(first)
''',
    "_first": """
def _first(action):
    if isinstance(action, dict):
        return {key: _first(value) for key, value in action.items()}
    return tuple(_first(value) for value in action) if isinstance(action, tuple) else action[0]
""",
}


def write(plan: Plan) -> bytes:
    """A Python module: the parameters, and a function ``act`` with only the steps that this policy has.

    Raises:
        ExportError: the policy reads images.
    """
    if plan.images:
        raise ExportError("format numpy: this policy reads images, which only the format onnx can hold")
    words = _arguments(plan, "obs", "carry", "mask")
    usage = (USAGE if plan.memory is None else USAGE_OF_MEMORY).format(words=words)
    constants = [_constant(name, array) for name, array in _arrays(plan).items() if array is not None]
    text = "\n".join(_act_lines(plan))
    pieces = ["\n".join(constants), *_called(text), text]
    if plan.memory is not None:
        pieces.insert(-1, START.format(size=plan.memory.carry_size))
    head = HEAD.format(usage=usage, about=repr(json.dumps(plan.about)))
    return (head + "\n\n\n".join(pieces) + "\n" + TAIL.format(zeros=_zeros(plan))).encode()


def _arrays(plan: Plan) -> dict[str, np.ndarray | None]:
    """The constants of the file by name; None: this policy has no such step."""
    arrays = {"ORIGIN": plan.origin, "MEAN": plan.mean, "STD": plan.std, "BOUND": _separate_bounds(plan)}
    if isinstance(plan.memory, Cell):
        cell = plan.memory
        named = {"FROM_INPUT": cell.from_input, "FROM_MEMORY": cell.from_memory, "GATE_BIAS": cell.bias}
        arrays |= {name: np.asarray(array) for name, array in named.items()}
    arrays |= {"CENTER": plan.center, "SCALE": plan.scale, "LOW": plan.low, "HIGH": plan.high}
    for i, (weight, bias) in enumerate(plan.layers, start=1):
        arrays |= {f"WEIGHT_{i}": weight, f"BIAS_{i}": bias}
    return arrays


def _separate_bounds(plan: Plan) -> np.ndarray | None:
    """The bound of each number, where not all have the same."""
    return plan.bounds if plan.bounds is not None and plan.bounds.ndim else None


def _act_lines(plan: Plan) -> list[str]:
    """The function ``act``."""
    words = "obs" if plan.memory is None else "obs, carry"
    separate = plan.mask is not None and not plan.mask.path
    and_carry = "" if plan.memory is None else "; and what the memory holds after it"
    return [
        f"def act({words}{', *, action_mask' if separate else ''}):",
        f'    """The greedy action for one raw observation, or for a batch of them{and_carry}."""',
        *_observation_lines(plan),
        *_memory_lines(plan),
        *_layer_lines(plan),
        *_action_lines(plan),
    ]


def _observation_lines(plan: Plan) -> list[str]:
    """From ``obs`` to the numbers as the network reads them, x [N, O]."""
    lines = _one_vector_lines(plan) if reads_one_vector(plan.inputs) else _parts_lines(plan)
    if plan.mask is not None:
        flags = _place(plan.mask)
        lines.append(f"    mask = np.asarray({flags}, bool).reshape(-1, {plan.spec.num_logits})")
    if plan.origin is not None:
        lines.append("    x = (x - ORIGIN).astype(np.float32)  # float64 first: float32 has too few digits")
    if plan.mean is not None:
        lines.append("    x = (x - MEAN) / STD")
    if _separate_bounds(plan) is not None:
        lines.append("    x = np.clip(x, -BOUND, BOUND)")
    elif plan.limit is not None:
        lines.append(f"    x = np.clip(x, np.float32({-plan.limit!r}), np.float32({plan.limit!r}))")
    return lines


def _one_vector_lines(plan: Plan) -> list[str]:
    (leaf,) = plan.inputs.values()
    return [
        f"    obs = np.asarray(obs, np.{'float32' if plan.origin is None else 'float64'})",
        '    single = obs.shape == tuple(ABOUT["obs_shape"])',
        f"    x = obs.reshape(-1, {leaf.width})",
    ]


def _parts_lines(plan: Plan) -> list[str]:
    lines, rows = [], []
    dtype = "np.float32" if plan.origin is None else "np.float64"
    for i, leaf in enumerate(plan.numbers.values(), start=1):
        given = f"{_place(leaf)}, {dtype}" if leaf.kind == "vector" else _place(leaf)
        lines.append(f"    part_{i} = np.asarray({given})")
        if leaf.kind == "vector":
            rows.append(f"part_{i}.reshape(-1, {leaf.width})")
        else:
            entries = f"part_{i}.reshape(-1, {len(leaf.sizes)})"
            rows.append(f"_one_hot({entries}, {list(leaf.sizes)}, {list(leaf.first)})")
    first = next(iter(plan.numbers.values()))
    x = rows[0] if len(rows) == 1 else f"np.concatenate([{', '.join(rows)}], axis=1)"
    return [*lines, f"    single = part_1.shape == {first.shape}", f"    x = {x}"]


def _place(leaf: Leaf) -> str:
    """The expression for a leaf of the observation."""
    if leaf.kind == "mask" and not leaf.path:
        return "action_mask"
    return "obs" + "".join(f"[{key!a}]" for key in leaf.path)


def _memory_lines(plan: Plan) -> list[str]:
    if plan.memory is None:
        return []
    kind = plan.memory.kind if isinstance(plan.memory, Cell) else "window"
    output = "carry" if kind == "gru" else f"carry[:, :{plan.memory.size}]"
    return [
        f"    carry = _remember_{kind}(x, carry)",
        f"    x = np.concatenate([x, {output}], axis=1)",
    ]


def _layer_lines(plan: Plan) -> list[str]:
    activate = {"tanh": "np.tanh({})", "relu": "np.maximum({}, np.float32(0))"}
    activation, last = activate.get(plan.activation, f"_{plan.activation}({{}})"), len(plan.layers)
    lines = []
    for i in range(1, last):
        layer = f"x @ WEIGHT_{i} + BIAS_{i}"
        if plan.residual:
            lines.append(f"    before = {layer}" if i == 1 else f"    before = before + ({layer})")
            layer = "before"
        lines.append(f"    x = {activation.format(f'_standardized({layer})' if plan.layer_norm else layer)}")
    return [*lines, f"    x = x @ WEIGHT_{last} + BIAS_{last}"]


def _action_lines(plan: Plan) -> list[str]:
    """From the last layer's output to the environment's action."""
    first = "action[0]"
    if gives_one_array(plan.outputs):
        lines = _one_array_lines(plan)
        first = first if plan.spec.boxes else "int(action[0])"
    else:
        lines = _several_lines(plan)
        first = "_first(action)" if plan.spec.action[0].path else first
    if plan.memory is None:
        return [*lines, f"    return {first} if single else action"]
    return [*lines, f"    return ({first} if single else action), carry"]


def _one_array_lines(plan: Plan) -> list[str]:
    if plan.spec.choices:
        return [*_masked("x", plan), '    action = np.argmax(x, axis=1) + ABOUT["first_choice"]']
    return [
        *(["    x = np.tanh(x)"] if plan.head_tanh else []),
        "    x = np.clip(CENTER + SCALE * x, LOW, HIGH)",
        '    action = x.reshape(-1, *ABOUT["action_shape"])',
    ]


def _several_lines(plan: Plan) -> list[str]:
    spec, lines = plan.spec, []
    if spec.boxes:
        box = f"x[:, :{spec.box_size}]" if spec.choices else "x"
        lines.append(f"    box = {f'np.tanh({box})' if plan.head_tanh else box}")
        lines.append("    box = np.clip(CENTER + SCALE * box, LOW, HIGH)")
    if spec.choices:
        first = [value for part in spec.choices for value in part.first]
        lines.append(f"    logits = x[:, {spec.box_size}:]" if spec.boxes else "    logits = x")
        lines += _masked("logits", plan)
        lines.append(f"    chosen = _choose(logits, {list(spec.sizes)}, {first})")
    return [*lines, f"    action = {_literal(_columns(plan))}"]


def _masked(logits: str, plan: Plan) -> list[str]:
    line = f"    {logits} = np.where(mask, {logits}, np.float32({FORBIDDEN!r}))"
    return [] if plan.mask is None else [line]


def _columns(plan: Plan) -> dict[tuple[str | int, ...], str]:
    """The expression for each part of the action, by its path in the environment's order."""
    columns: dict[Part, str] = {}
    for array, parts in (("box", plan.spec.boxes), ("chosen", plan.spec.choices)):
        start = 0
        for part in parts:
            shape = ", ".join(map(str, (-1, *part.shape)))
            columns[part] = f"{array}[:, {start}:{start + part.num_columns}].reshape({shape})"
            start += part.num_columns
    return {part.path: columns[part] for part in plan.spec.action}


def _literal(values: Mapping[tuple[str | int, ...], str], *, tuples: bool = True) -> str:
    """Nested dictionaries and tuples of expressions, each at its path."""
    if () in values:
        return values[()]
    heads = dict.fromkeys(path[0] for path in values)
    inner = {
        head: _literal({p[1:]: x for p, x in values.items() if p[0] == head}, tuples=tuples) for head in heads
    }
    if tuples and all(isinstance(head, int) for head in heads):
        return f"({', '.join(inner.values())}{',' * (len(inner) == 1)})"
    return "{" + ", ".join(f"{head!a}: {value}" for head, value in inner.items()) + "}"


def _arguments(plan: Plan, obs: str, carry: str, mask: str) -> str:
    """What ``act`` takes."""
    words = [obs] if plan.memory is None else [obs, carry]
    if plan.mask is not None and not plan.mask.path:
        words.append(f"action_mask={mask}")
    return ", ".join(words)


def _zeros(plan: Plan) -> str:
    """The arguments of ``act`` for an observation of zeros at an episode's start; all values are allowed."""
    if reads_one_vector(plan.inputs):
        obs = 'np.zeros(ABOUT["obs_shape"])'
    else:
        leaves = [leaf for leaf in plan.inputs.values() if leaf.path or leaf.kind != "mask"]
        arrays = {
            leaf.path: f"np.{'ones' if leaf.kind == 'mask' else 'zeros'}({leaf.shape})" for leaf in leaves
        }
        obs = _literal(arrays, tuples=False)  # not all places of a tuple need to be read
    return _arguments(plan, obs, "start()", f"np.ones({plan.spec.num_logits})")


def _called(text: str) -> list[str]:
    """The functions of ``FUNCTIONS`` that are called in a text or by each other."""
    called = []
    for name, function in FUNCTIONS.items():
        if f"{name}(" in text:
            called.append(function.strip())
            text += function
    return called


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
import json, runpy, sys
sys.modules["poise"] = None
import numpy as np

def nested(arrays):
    root = {}
    for path, array in arrays:
        *heads, last = ["", *path]
        inner = root
        for head in heads:
            inner = inner.setdefault(head, {})
        inner[last] = array
    return root[""]

def flat(tree, path=()):
    if not isinstance(tree, (dict, tuple)):
        return [(path, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [leaf for key, inner in items for leaf in flat(inner, (*path, key))]

module = runpy.run_path(sys.argv[1])
given = np.load(sys.argv[2], allow_pickle=False)
obs = [(path, given[str(i)]) for i, path in enumerate(json.loads(str(given["paths"])))]
carry = [module["start"](given["begins"].shape[1])] if "start" in module else []
actions = []
with np.errstate(over="ignore", invalid="ignore"):
    for t, begins in enumerate(given["begins"]):
        words = {"action_mask": given["mask"][t]} if "mask" in given else {}
        for held in carry:
            held[begins] = 0
        action = module["act"](nested([(path, array[t]) for path, array in obs]), *carry, **words)
        if carry:
            action, *carry = action
        actions.append(flat(action))
arrays = {str(i): np.stack([step[i][1] for step in actions]) for i in range(len(actions[0]))}
np.savez(sys.argv[3], paths=json.dumps([path for path, _ in actions[0]]), **arrays)
"""


def act(
    path: Path,
    obs: Any,
    mask: Bool[np.ndarray, "*T N M"] | None = None,
    begins: Bool[np.ndarray, "T N"] | None = None,
) -> Any:
    """The actions of an exported file, run in a process of its own.

    Args:
        obs, mask: as ``export_parity.Trial`` has them.
        begins: where an episode begins; None: all are one step, and the arrays have no axis T.

    Raises:
        ParityError: it fails, or takes longer than ``SECONDS``.
    """
    if begins is None:
        obs, mask, begins = one_step(obs, mask)
        return map_tree(lambda array: array[0], act(path, obs, mask, begins))
    arrays = flat(obs)
    given: dict[str, Any] = {str(i): array for i, array in enumerate(arrays.values())}
    given |= {"paths": json.dumps(list(arrays)), "begins": begins} | ({} if mask is None else {"mask": mask})
    with tempfile.TemporaryDirectory() as folder:
        given_file, action_file = Path(folder) / "given.npz", Path(folder) / "action.npz"
        np.savez(given_file, **given)
        _run([str(path), str(given_file), str(action_file)])
        with np.load(action_file, allow_pickle=False) as acted:
            paths = [tuple(path) for path in json.loads(str(acted["paths"]))]
            return nested({path: acted[str(i)] for i, path in enumerate(paths)})


def _run(words: list[str]) -> None:
    """Runs ``_ACTING``.

    Raises:
        ParityError: it fails, or takes longer than ``SECONDS``.
    """
    try:
        process = subprocess.run(
            [sys.executable, "-I", "-B", "-c", _ACTING, *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ParityError(f"the exported policy did not act within {SECONDS:g} s") from error
    if process.returncode:
        raise ParityError(f"the exported policy cannot act: {process.stderr.strip()[-200:]}")
