"""An export as an ONNX graph."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from poise.agents.export_plan import ExportError, Plan
from poise.system.extras import needs

OPSET, IR_VERSION = 17, 8  # of 2022, so that runtimes of that year read it, too


def _onnx() -> Any:
    """The package ``onnx``.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ExportError(f"format onnx {needs('onnx')}") from error
    return onnx


class _Graph:
    """The nodes and constants of a graph, in the order in which they are added."""

    def __init__(self, onnx: Any):
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: Any) -> str:
        """Adds a constant and returns its name."""
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        output = f"x{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output


def write(plan: Plan) -> bytes:
    """The graph: ``obs`` [N, ...] float32 to ``action`` [N, ...] float32, or int64 [N] of choices.

    With an origin ``obs`` is float64: in float32 the digits that the policy acts on would be lost.

    Raises:
        ExportError: the extra ``onnx`` is not installed.
    """
    onnx = _onnx()
    graph = _Graph(onnx)
    x = _add_observation(graph, plan, onnx.TensorProto.FLOAT)
    for i, (weight, bias) in enumerate(plan.layers, start=1):
        x = graph.node("Gemm", x, graph.constant(f"weight{i}", weight), graph.constant(f"bias{i}", bias))
        if i < len(plan.layers):
            x = graph.node({"tanh": "Tanh", "relu": "Relu"}[plan.activation], x)
    if plan.head_tanh:
        x = graph.node("Tanh", x)
    _add_action(graph, plan, x)
    graph.nodes[-1].output[0] = "action"
    return _model(onnx, graph, plan).SerializeToString()


def _add_observation(graph: _Graph, plan: Plan, float32: int) -> str:
    """From ``obs`` to the input of the first layer [N, O]; ``float32``: ONNX's number for this type."""
    shape = np.array([-1, math.prod(plan.about["obs_shape"])], np.int64)
    x = graph.node("Reshape", "obs", graph.constant("rows", shape))
    if plan.origin is not None:
        x = graph.node("Sub", x, graph.constant("origin", plan.origin.astype(np.float64)))
        x = graph.node("Cast", x, to=float32)
    if plan.mean is not None:
        x = graph.node("Sub", x, graph.constant("mean", plan.mean))
        x = graph.node("Div", x, graph.constant("std", plan.std))
    if plan.limit is not None:
        low = graph.constant("least", np.float32(-plan.limit))
        x = graph.node("Clip", x, low, graph.constant("most", np.float32(plan.limit)))
    return x


def _add_action(graph: _Graph, plan: Plan, x: str) -> None:
    """From the output of the last layer [N, A] to the environment's action."""
    if plan.discrete:
        x = graph.node("ArgMax", x, axis=1, keepdims=0)
        graph.node("Add", x, graph.constant("first_choice", np.int64(plan.about["first_choice"])))
        return
    x = graph.node("Mul", x, graph.constant("scale", plan.scale))
    x = graph.node("Add", x, graph.constant("center", plan.center))
    x = graph.node("Max", x, graph.constant("low", plan.low))
    x = graph.node("Min", x, graph.constant("high", plan.high))
    shape = np.array([-1, *plan.about["action_shape"]], np.int64)
    graph.node("Reshape", x, graph.constant("shape", shape))


def _model(onnx: Any, graph: _Graph, plan: Plan) -> Any:
    """The checked model, with ``plan.about`` in its metadata."""
    make, types = onnx.helper, onnx.TensorProto
    obs_type = types.FLOAT if plan.origin is None else types.DOUBLE
    action_type = types.INT64 if plan.discrete else types.FLOAT
    action_shape = [] if plan.discrete else plan.about["action_shape"]
    model = make.make_model(
        make.make_graph(
            graph.nodes,
            "policy",
            [make.make_tensor_value_info("obs", obs_type, ["N", *plan.about["obs_shape"]])],
            [make.make_tensor_value_info("action", action_type, ["N", *action_shape])],
            graph.constants,
        ),
        producer_name="poise",
        opset_imports=[make.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        doc_string="A trained policy: raw observations in, the environment's greedy actions out.",
    )
    make.set_model_props(model, {name: json.dumps(value) for name, value in plan.about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def act(path: Path, obs: Float[np.ndarray, "N *O"]) -> Shaped[np.ndarray, "N *A"]:
    """The actions of an exported file.

    Raises:
        ExportError: the extra ``onnx`` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"format onnx: onnxruntime, which checks the file, {needs('onnx')}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["action"], {"obs": obs})[0])
