"""The encoder of an image as nodes of an ONNX graph.

ONNX has the channels of images first, and the weights of convolutions as [outputs, inputs, k, k].
"""

import numpy as np

from poise.agents.export_graph import Graph
from poise.agents.export_plan import ImagePlan, is_bytes
from poise.algo.encoders import Convolution, image_size
from poise.spec import Leaf


def add_image(graph: Graph, plan: ImagePlan, pixels: str) -> str:
    """From the pixels of an image, as the environment has them, to its features [N, F]."""
    encoder = plan.encoder
    layers = _Layers(graph, *image_size(encoder.leaf)[:2])
    x = _scaled(graph, plan, _channels_first(graph, encoder.leaf, pixels))
    if encoder.kind == "impala":
        x = layers.residual_sections(x, encoder.convolutions)
    else:
        for convolution in encoder.convolutions:
            x = graph.node("Relu", layers.convolved(x, convolution))
    x = graph.node("Transpose", x, perm=[0, 2, 3, 1])  # the order of the pixels in a row: channels last
    if encoder.weight is None:
        return graph.reshape(x, encoder.num_features)
    x = graph.reshape(x, encoder.weight.shape[0])
    weight, bias = (np.asarray(array, np.float32) for array in (encoder.weight, encoder.bias))
    return graph.node(
        "Relu",
        graph.node("Gemm", x, graph.constant("image_weight", weight), graph.constant("image_bias", bias)),
    )


def _channels_first(graph: Graph, leaf: Leaf, pixels: str) -> str:
    match leaf.channels:
        case 0:
            return pixels
        case 2:
            return graph.node("Transpose", pixels, perm=[0, 3, 1, 2])
        case None:
            return graph.reshape(pixels, 1, *leaf.shape)


def _scaled(graph: Graph, plan: ImagePlan, x: str) -> str:
    """Pixels as float32 from 0 to 1, and then with the statistics of their channels."""
    leaf = plan.encoder.leaf
    if is_bytes(leaf):
        x = graph.cast(x, np.float32)
    if leaf.low != 0:
        x = graph.node("Sub", x, graph.constant("pixel_low", np.float32(leaf.low)))
    if leaf.high - leaf.low != 1:
        x = graph.node("Mul", x, graph.constant("pixel_scale", np.float32(1 / (leaf.high - leaf.low))))
    if plan.mean is not None and plan.std is not None:
        x = graph.node("Sub", x, graph.constant("pixel_mean", plan.mean.reshape(-1, 1, 1)))
        x = graph.node("Div", x, graph.constant("pixel_std", plan.std.reshape(-1, 1, 1)))
    return x


class _Layers:
    """Adds convolutions and poolings, and keeps the height and width of what they give."""

    def __init__(self, graph: Graph, height: int, width: int):
        self._graph, self._sides = graph, (height, width)

    def convolved(self, x: str, convolution: Convolution) -> str:
        side, stride = convolution.weight.shape[0], convolution.stride
        weight = np.transpose(np.asarray(convolution.weight, np.float32), (3, 2, 0, 1))
        return self._graph.node(
            "Conv",
            x,
            self._graph.constant("kernel", weight),
            self._graph.constant("kernel_bias", np.asarray(convolution.bias, np.float32)),
            strides=[stride, stride],
            pads=self._window(side, stride, keeps_size=convolution.keeps_size),
        )

    def pooled(self, x: str) -> str:
        """The largest value of each 3 x 3 pixels, at every second pixel."""
        pads = self._window(3, 2, keeps_size=True)
        return self._graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=pads)

    def residual_sections(self, x: str, convolutions: tuple[Convolution, ...]) -> str:
        """Sections of a convolution, a pooling and two residual blocks."""
        graph = self._graph
        for i in range(0, len(convolutions), 5):
            first, *blocks = convolutions[i : i + 5]
            x = self.pooled(self.convolved(x, first))
            for a, b in (blocks[:2], blocks[2:]):
                inner = graph.node("Relu", self.convolved(graph.node("Relu", x), a))
                x = graph.node("Add", x, self.convolved(inner, b))
        return graph.node("Relu", x)

    def _window(self, side: int, stride: int, *, keeps_size: bool) -> list[int]:
        """The padding of a window of ``side`` pixels: top, left, bottom, right. The sides become smaller.

        A window that keeps the size has the larger half of its padding at the bottom and right, as in JAX.
        """
        if not keeps_size:
            self._sides = tuple((size - side) // stride + 1 for size in self._sides)
            return [0, 0, 0, 0]
        outputs = [-(-size // stride) for size in self._sides]
        sums = [max((n - 1) * stride + side - size, 0) for n, size in zip(outputs, self._sides, strict=True)]
        self._sides = tuple(outputs)
        return [total // 2 for total in sums] + [total - total // 2 for total in sums]
