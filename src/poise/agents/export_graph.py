"""The nodes and constants of an ONNX graph."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from poise.agents.export_plan import ExportError
from poise.system.extras import needs


def import_onnx() -> Any:
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


class Graph:
    """Nodes and constants in the order in which they are added.

    ``taken``: the names of what goes in and out. Others are chosen so that they differ from these.
    """

    def __init__(self, onnx: Any, taken: Iterable[str]):
        self._onnx = onnx
        self._taken = set(taken)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: Any) -> str:
        """Adds a constant and returns its name."""
        name = self._free(name)
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Adds a node and returns the name of its output: ``output``, or a free one."""
        output = self._free(f"x{len(self.nodes)}") if output is None else output
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def reshape(self, x: str, *shape: int, output: str | None = None) -> str:
        """``x`` as ``[N, *shape]``."""
        return self.node(
            "Reshape", x, self.constant("shape", np.array([-1, *shape], np.int64)), output=output
        )

    def split(self, x: str, sizes: Iterable[int]) -> list[str]:
        """The columns of ``x`` as arrays with so many columns each."""
        sizes = list(sizes)
        if len(sizes) == 1:
            return [x]
        outputs = [self._free(f"x{len(self.nodes)}_{i}") for i in range(len(sizes))]
        inputs = [x, self.constant("sizes", np.array(sizes, np.int64))]
        self.nodes.append(self._onnx.helper.make_node("Split", inputs, outputs, axis=1))
        return outputs

    def cast(self, x: str, dtype: type[np.generic]) -> str:
        return self.node("Cast", x, to=self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _free(self, name: str) -> str:
        """The name, with a number if it is taken; it is taken then."""
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free
