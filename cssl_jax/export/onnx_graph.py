"""ONNX graph of a ResNet, written from its options and weights with the package `onnx`."""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import UserError
from cssl_jax.interop.resnet_weights import Architecture, blocks_of
from cssl_jax.models.pooling import same_padding

INPUT, OUTPUT = "images", "features"
_OPSET, _IR = 17, 8  # read by onnxruntime 1.12 (2022) and newer
_EPSILON = 1e-5  # of BatchNorm
_LARGEST = 2**31  # bytes of a protocol buffer


def require_onnx() -> Any:
    """The package ``onnx``.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise UserError(
            f'--format onnx needs the package onnx: pip install "cssl_jax[onnx]" ({error})'
        ) from error


def write(
    path: pathlib.Path, variables: Mapping[str, Any], architecture: Architecture, spec: ImageSpec
) -> None:
    """Writes a model from images uint8 [N, H, H, C], of any N, to features float32 [N, D].

    Crop, normalisation and weights are in the file. H is the side that the encoder crops from.

    Args:
        path: File to write.
        variables: {"params", "batch_stats"} of the encoder, as arrays.
        architecture: Options of the encoder.
        spec: Input of the encoder.

    Raises:
        UserError: ``onnx`` is not installed, or the weights are too large for one file.
    """
    onnx = require_onnx()
    graph = _Graph(onnx, variables)
    features = graph.encode(graph.prepare(spec), architecture, spec.size)
    if sum(array.nbytes for array in graph.arrays.values()) >= _LARGEST:
        raise UserError("the weights take 2 GiB or more, which one ONNX file cannot hold")
    helper, types = onnx.helper, onnx.TensorProto
    side, channels = spec.resized, spec.channels
    made = helper.make_graph(
        [*graph.nodes, helper.make_node("Flatten", [features], [OUTPUT], axis=1)],
        "encoder",
        [helper.make_tensor_value_info(INPUT, types.UINT8, ["n", side, side, channels])],
        [helper.make_tensor_value_info(OUTPUT, types.FLOAT, ["n", graph.width])],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(made, opset_imports=[opset], producer_name="cssl_jax")
    model.ir_version = _IR
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def run(path: pathlib.Path, images: np.ndarray) -> tuple[np.ndarray, str]:
    """(features, name of the program that computed them) of images by the model in a file.

    onnxruntime computes them where it is installed, else the reference implementation of ``onnx``.
    """
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        reference = importlib.import_module("onnx.reference")
        evaluator: Any = reference.ReferenceEvaluator(str(path))
        return evaluator.run(None, {INPUT: images})[0], "the reference implementation of onnx"
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # Two calls with different numbers of images.
    parts = [session.run(None, {INPUT: part})[0] for part in (images[:1], images[1:])]
    return np.concatenate(parts), f"onnxruntime {runtime.__version__}"


class _Graph:
    """Nodes and arrays of a graph, built in the order of the layers; maps are [n, C, H, W].

    Attributes:
        nodes: Nodes so far.
        arrays: Weights and constants by name.
        width: Number of channels of the newest convolution.
    """

    def __init__(self, onnx: Any, variables: Mapping[str, Any]) -> None:
        self._helper, self._variables = onnx.helper, variables
        self.nodes: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.width = 0
        self._float = onnx.TensorProto.FLOAT

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node with one output, whose name is returned."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Adds an array, whose name is returned."""
        self.arrays[name] = np.ascontiguousarray(np.asarray(value, dtype))
        return name

    def prepare(self, spec: ImageSpec) -> str:
        """Images as the encoder takes them: cropped, on [0, 1], normalised, channels first."""
        start = (spec.resized - spec.size) // 2
        names = [
            self.constant(f"crop_{name}", values, np.int64)
            for name, values in (
                ("starts", [start] * 2),
                ("ends", [start + spec.size] * 2),
                ("axes", [1, 2]),
            )
        ]
        x = self.add("Cast", self.add("Slice", INPUT, *names), to=self._float)
        x = self.add("Div", x, self.constant("white", 255))
        x = self.add("Sub", x, self.constant("mean", spec.mean))
        x = self.add("Div", x, self.constant("deviation", spec.std))
        return self.add("Transpose", x, perm=[0, 3, 1, 2])

    def encode(self, x: str, architecture: Architecture, size: int) -> str:
        """Features [n, D, 1, 1] of prepared images."""
        selective = architecture.variant == "simclr_sk"
        if architecture.stem == "cifar":
            x = self.block(x, "", "conv1", "bn1", pad=1)
        else:
            side = -(-size // 2)
            if selective:
                x = self.block(x, "", "stem_conv1", "stem_bn1", stride=2, pad=1)
                x = self.block(x, "", "stem_conv2", "stem_bn2", pad=1)
                x = self.block(x, "", "conv1", "bn1", pad=1)
            else:
                x = self.block(x, "", "conv1", "bn1", stride=2, pad=3)
            pads = [1, 1, 1, 1]
            if architecture.variant != "torchvision":
                (above, below), (left, right) = same_padding((1, side, side, 1), 3, 2)
                pads = [above, left, below, right]
            x = self.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=pads)
        stages, bottleneck = blocks_of(architecture.encoder)
        for stage, count in enumerate(stages):
            for number in range(count):
                stride = 2 if stage and not number else 1
                x = self.residual(x, f"layer{stage + 1}_{number}", stride, bottleneck, selective)
        return self.add("GlobalAveragePool", x)

    def residual(self, x: str, name: str, stride: int, bottleneck: bool, selective: bool) -> str:
        """One residual block."""
        shortcut = x
        if "downsample_conv" in self._variables["params"][name]:
            steps = stride
            if selective:
                shortcut = self.add(
                    "AveragePool",
                    shortcut,
                    kernel_shape=[2, 2],
                    strides=[stride, stride],
                    pads=[0, 0, 1, 1],
                    count_include_pad=int(stride > 1),
                )
                steps = 1
            layer = "downsample_conv", "downsample_bn"
            shortcut = self.block(shortcut, name, *layer, stride=steps, relu=False)
        if bottleneck:
            x = self.block(x, name, "conv1", "bn1")
            if selective:
                x = self.selective(x, name, stride)
            else:
                x = self.block(x, name, "conv2", "bn2", stride=stride, pad=1)
            x = self.block(x, name, "conv3", "bn3", relu=False)
        else:
            x = self.block(x, name, "conv1", "bn1", stride=stride, pad=1)
            x = self.block(x, name, "conv2", "bn2", pad=1, relu=False)
        return self.add("Relu", self.add("Add", x, shortcut))

    def selective(self, x: str, name: str, stride: int) -> str:
        """A selective kernel: two branches, mixed by weights from the mean of their sum."""
        x = self.block(x, name, "conv2", "bn2", stride=stride, pad=1)
        first, second = self.split(x)
        pooled = self.add("GlobalAveragePool", self.add("Add", first, second))
        squeezed = self.block(pooled, name, "squeeze_conv", "squeeze_bn")
        one, other = self.split(self.block(squeezed, name, "mix_conv", "", relu=False))
        weight = self.add("Sigmoid", self.add("Sub", one, other))
        # second + weight (first - second)
        return self.add("Add", second, self.add("Mul", weight, self.add("Sub", first, second)))

    def split(self, x: str) -> tuple[str, str]:
        """Both halves of the channels."""
        names = f"{x}a", f"{x}b"
        self.nodes.append(self._helper.make_node("Split", [x], list(names), axis=1))
        return names

    def block(
        self,
        x: str,
        place: str,
        conv: str,
        norm: str,
        *,
        stride: int = 1,
        pad: int = 0,
        relu: bool = True,
    ) -> str:
        """A convolution, its BatchNorm unless ``norm`` is "", and ReLU."""
        params, stats = (
            self._variables[part][place] if place else self._variables[part]
            for part in ("params", "batch_stats")
        )
        kernel = np.asarray(params[conv]["kernel"]).transpose(3, 2, 0, 1)
        self.width = kernel.shape[0]
        weights = self.constant(f"{place}.{conv}", kernel)
        x = self.add("Conv", x, weights, strides=[stride] * 2, pads=[pad] * 4)
        if norm:
            leaves = {**params[norm], **stats[norm]}
            names = [
                self.constant(f"{place}.{norm}.{leaf}", leaves[leaf])
                for leaf in ("scale", "bias", "mean", "var")
            ]
            x = self.add("BatchNormalization", x, *names, epsilon=_EPSILON)
        return self.add("Relu", x) if relu else x
