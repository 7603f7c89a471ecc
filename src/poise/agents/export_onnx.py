"""An export as an ONNX graph."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from poise.agents.export_graph import Graph, import_onnx
from poise.agents.export_images import add_image
from poise.agents.export_parity import Trial, map_tree, nested, one_step
from poise.agents.export_plan import CARRY, CARRY_OUT, ExportError, Plan, is_bytes
from poise.algo.distributions import FORBIDDEN
from poise.algo.encoders import EPSILON
from poise.algo.memory import AnyMemory, Cell, Window
from poise.envs.packing import at
from poise.spec import Leaf
from poise.system.extras import needs
from poise.training.acting import SELU, SELU_ALPHA

OPSET, IR_VERSION = 17, 8  # of 2022, so that runtimes of that year read it, too
NODES = {
    "tanh": "Tanh",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "sigmoid": "Sigmoid",
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "selu": {"gamma": SELU, "alpha": SELU_ALPHA}
}  # others have the values of jax.nn by default
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def write(plan: Plan) -> bytes:
    """The graph: from each array that the policy reads [N, ...] to each part of the action [N, ...].

    Vectors are float32, entries with a few values int64, masks bool [N, M], images uint8 if their pixels go
    from 0 to 255, otherwise float32. Boxes are float32, choices int64. With an origin vectors are float64: in
    float32 the digits that the policy acts on would be lost.

    Raises:
        ExportError: the extra ``onnx`` is not installed.
    """
    onnx = import_onnx()
    graph = Graph(onnx, {*plan.inputs, *plan.outputs, CARRY, CARRY_OUT})
    names = {leaf.name: name for name, leaf in plan.inputs.items()}
    features = [_add_numbers(graph, plan)] if plan.numbers else []
    features += [add_image(graph, image, names[image.encoder.leaf.name]) for image in plan.images]
    x = features[0] if len(features) == 1 else graph.node("Concat", *features, axis=1)
    if plan.memory is not None:
        x = graph.node("Concat", x, _add_memory(graph, plan.memory, x), axis=1)  # the newest features first
    _add_action(graph, plan, _add_layers(graph, plan, x))
    return _model(onnx, graph, plan).SerializeToString()


def _add_numbers(graph: Graph, plan: Plan) -> str:
    """From vectors and entries with a few values to the numbers as the network reads them, [N, O]."""
    leaves = [_add_leaf(graph, name, leaf, _vector_dtype(plan)) for name, leaf in plan.numbers.items()]
    x = leaves[0] if len(leaves) == 1 else graph.node("Concat", *leaves, axis=1)
    if plan.origin is not None:
        x = graph.node("Sub", x, graph.constant("origin", plan.origin.astype(np.float64)))
        x = graph.cast(x, np.float32)
    if plan.mean is not None:
        x = graph.node("Sub", x, graph.constant("mean", plan.mean))
        x = graph.node("Div", x, graph.constant("std", plan.std))
    if plan.bounds is not None:
        x = graph.node("Max", x, graph.constant("least", -plan.bounds))
        x = graph.node("Min", x, graph.constant("most", plan.bounds))
    return x


def _vector_dtype(plan: Plan) -> type[np.floating]:
    return np.float32 if plan.origin is None else np.float64


def _add_leaf(graph: Graph, name: str, leaf: Leaf, dtype: type[np.floating]) -> str:
    if leaf.kind == "vector":
        return graph.reshape(name, leaf.width)
    entry = np.repeat(np.arange(len(leaf.sizes)), leaf.sizes)
    value = np.concatenate([first + np.arange(n) for first, n in zip(leaf.first, leaf.sizes, strict=True)])
    entries = graph.reshape(name, len(leaf.sizes))
    repeated = graph.node("Gather", entries, graph.constant("entry", entry), axis=1)
    return graph.cast(graph.node("Equal", repeated, graph.constant("value", value)), dtype)


def _add_memory(graph: Graph, memory: AnyMemory, x: str) -> str:
    """From the features and the carry to ``carry_out``; returns what the layers read of it."""
    if isinstance(memory, Window):
        _, past = graph.split(CARRY, [memory.num_features, memory.size])
        graph.node("Concat", past, x, axis=1, output=CARRY_OUT)
        return past
    return _add_cell(graph, memory, x)


def _add_cell(graph: Graph, cell: Cell, x: str) -> str:
    """Returns h, [N, H]."""
    from_input, from_memory, bias = (
        graph.constant(name, np.asarray(array, np.float32))
        for name, array in (
            ("from_input", cell.from_input),
            ("from_memory", cell.from_memory),
            ("gate_bias", cell.bias),
        )
    )
    gates, size = graph.node("Gemm", x, from_input, bias), cell.size
    if cell.kind == "gru":
        fed_back = graph.node("MatMul", CARRY, from_memory)
        return _add_gru(graph, gates, fed_back, size)
    hidden, cell_before = graph.split(CARRY, [size, size])
    gates = graph.node("Add", gates, graph.node("MatMul", hidden, from_memory))
    return _add_lstm(graph, gates, cell_before, size)


def _add_gru(graph: Graph, gates: str, fed_back: str, size: int) -> str:
    (rz, n), (hrz, hn) = (graph.split(x, [2 * size, size]) for x in (gates, fed_back))
    r, z = graph.split(graph.node("Sigmoid", graph.node("Add", rz, hrz)), [size, size])
    new = graph.node("Tanh", graph.node("Add", n, graph.node("Mul", r, hn)))
    rest = graph.node("Sub", graph.constant("one", np.float32(1)), z)
    kept = graph.node("Mul", z, CARRY)
    return graph.node("Add", graph.node("Mul", rest, new), kept, output=CARRY_OUT)


def _add_lstm(graph: Graph, gates: str, before: str, size: int) -> str:
    i, f, g, o = graph.split(gates, [size] * 4)
    i, f, o = (graph.node("Sigmoid", x) for x in (i, f, o))
    kept = graph.node("Mul", f, before)
    cell = graph.node("Add", kept, graph.node("Mul", i, graph.node("Tanh", g)))
    hidden = graph.node("Mul", o, graph.node("Tanh", cell))
    graph.node("Concat", hidden, cell, axis=1, output=CARRY_OUT)
    return hidden


def _add_layers(graph: Graph, plan: Plan, x: str) -> str:
    """The fully connected layers."""
    before = None
    for i, (weight, bias) in enumerate(plan.layers, start=1):
        x = graph.node("Gemm", x, graph.constant(f"weight{i}", weight), graph.constant(f"bias{i}", bias))
        if i == len(plan.layers):
            break
        if plan.residual and before is not None:
            x = graph.node("Add", before, x)
        before = x
        if plan.layer_norm:
            scale = graph.constant("ones", np.ones(len(bias), np.float32))
            x = graph.node("LayerNormalization", x, scale, axis=-1, epsilon=EPSILON)
        x = _activated(graph, plan, x)
    return x


def _activated(graph: Graph, plan: Plan, x: str) -> str:
    if plan.activation == "silu":
        return graph.node("Mul", x, graph.node("Sigmoid", x))
    if plan.activation == "gelu":
        return _gelu(graph, x)
    return graph.node(NODES[plan.activation], x, **ATTRIBUTES.get(plan.activation, {}))


def _gelu(graph: Graph, x: str) -> str:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); the node ``Gelu`` is of opset 20."""
    half, one, root, part = (
        graph.constant("gelu", np.float32(c)) for c in (0.5, 1, math.sqrt(2 / math.pi), 0.044715)
    )
    cube = graph.node("Mul", graph.node("Mul", x, x), x)
    inner = graph.node("Add", x, graph.node("Mul", part, cube))
    gate = graph.node("Add", one, graph.node("Tanh", graph.node("Mul", root, inner)))
    return graph.node("Mul", x, graph.node("Mul", half, gate))


def _add_action(graph: Graph, plan: Plan, x: str) -> None:
    """From the output of the last layer to the parts of the environment's action."""
    spec, names = plan.spec, {part: name for name, part in plan.outputs.items()}
    widths = [width for width in (spec.box_size, spec.num_logits) if width]
    outputs = graph.split(x, widths)
    if spec.boxes:
        columns = graph.split(_add_box(graph, plan, outputs[0]), [part.num_columns for part in spec.boxes])
        for part, own in zip(spec.boxes, columns, strict=True):
            graph.reshape(own, *part.shape, output=names[part])
    if spec.choices:
        chosen = _add_choices(graph, plan, outputs[-1])
        for part in spec.choices:
            own = [next(chosen) for _ in part.sizes]
            row = own[0] if len(own) == 1 else graph.node("Concat", *own, axis=1)
            row = graph.node("Add", row, graph.constant("first_choice", np.array(part.first, np.int64)))
            graph.reshape(row, *part.shape, output=names[part])


def _add_box(graph: Graph, plan: Plan, x: str) -> str:
    """From the policy's boxes to the environment's, [N, A]."""
    if plan.head_tanh:
        x = graph.node("Tanh", x)
    x = graph.node("Mul", x, graph.constant("scale", plan.scale))
    x = graph.node("Add", x, graph.constant("center", plan.center))
    x = graph.node("Max", x, graph.constant("low", plan.low))
    return graph.node("Min", x, graph.constant("high", plan.high))


def _add_choices(graph: Graph, plan: Plan, logits: str) -> Iterator[str]:
    """The most probable value of each choice, int64 [N, 1], counted from 0."""
    if plan.mask is not None:
        name = next(name for name, leaf in plan.inputs.items() if leaf.kind == "mask")
        logits = graph.node("Where", name, logits, graph.constant("forbidden", np.float32(FORBIDDEN)))
    for own in graph.split(logits, plan.spec.sizes):
        yield graph.node("ArgMax", own, axis=1, keepdims=1)


def _model(onnx: Any, graph: Graph, plan: Plan) -> Any:
    """The checked model, with ``plan.about`` in its metadata."""
    make = onnx.helper

    def value(name: str, dtype: type[np.generic], *shape: int) -> Any:
        number = make.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return make.make_tensor_value_info(name, number, ["N", *shape])

    inputs = [value(name, *_input_type(plan, leaf)) for name, leaf in plan.inputs.items()]
    outputs = [
        value(name, np.float32 if part.is_box else np.int64, *part.shape)
        for name, part in plan.outputs.items()
    ]
    if plan.memory is not None:
        inputs.append(value(CARRY, np.float32, plan.memory.carry_size))
        outputs.append(value(CARRY_OUT, np.float32, plan.memory.carry_size))
    model = make.make_model(
        make.make_graph(graph.nodes, "policy", inputs, outputs, graph.constants),
        producer_name="poise",
        opset_imports=[make.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string="A trained policy: raw observations in, the environment's greedy actions out.",
    )
    make.set_model_props(model, {name: json.dumps(value) for name, value in plan.about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _input_type(plan: Plan, leaf: Leaf) -> tuple[Any, ...]:
    """The type of an input and its shape without N."""
    match leaf.kind:
        case "vector":
            return _vector_dtype(plan), *leaf.shape
        case "one_hot":
            return np.int64, *leaf.shape
        case "image":
            return np.uint8 if is_bytes(leaf) else np.float32, *leaf.shape
        case "mask":
            return np.bool_, plan.spec.num_logits


def act(
    path: Path,
    obs: Any,
    mask: Bool[np.ndarray, "*T N M"] | None = None,
    begins: Bool[np.ndarray, "T N"] | None = None,
) -> Any:
    """The actions of an exported file.

    Args:
        obs, mask: as ``export_parity.Trial`` has them.
        begins: where an episode begins; None: all are one step, and the arrays have no axis T.

    Raises:
        ExportError: the extra ``onnx`` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"format onnx: onnxruntime, which checks the file, {needs('onnx')}") from error
    if begins is None:
        return map_tree(lambda array: array[0], act(path, *one_step(obs, mask)))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    steps = _played(session, Trial(obs, mask, begins))
    return map_tree(lambda *arrays: np.stack(arrays), *steps)


def _played(session: Any, trial: Trial) -> Iterator[Any]:
    """The actions of each step. The metadata of the graph say where its arrays stand."""
    about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    leaves = about.get("observations", [{"name": "obs", "kind": "vector", "path": []}])
    parts = about.get("actions", [{"name": "action", "path": []}])
    inputs = {each.name: each for each in session.get_inputs()}
    carry: dict[str, np.ndarray] = {}
    if len(inputs) > len(leaves):
        carry = {CARRY: np.zeros((trial.begins.shape[1], inputs[CARRY].shape[1]), np.float32)}
    names = [part["name"] for part in parts] + ([CARRY_OUT] if carry else [])
    for t, begins in enumerate(trial.begins):
        for held in carry.values():
            held[begins] = 0
        feeds = {leaf["name"]: _fed(inputs[leaf["name"]].type, leaf, *trial.step(t)) for leaf in leaves}
        given = dict(zip(names, session.run(names, feeds | carry), strict=True))
        carry = {CARRY: given[CARRY_OUT]} if carry else carry
        yield nested({tuple(part["path"]): given[part["name"]] for part in parts})


def _fed(
    type: str, leaf: Mapping[str, Any], obs: Any, mask: Bool[np.ndarray, "N M"] | None
) -> Shaped[np.ndarray, "N ..."]:
    """An input of the graph; ``leaf``: its description in the metadata."""
    if leaf["kind"] != "mask":
        return np.asarray(at(obs, tuple(leaf["path"])), DTYPES[type])
    flags = np.asarray(at(obs, tuple(leaf["path"])) if leaf["path"] else mask, bool)
    return flags.reshape(len(flags), -1)
