"""Write `goldens/faces/networks/*.onnx`: small random networks with the shapes of published face networks.

`scrfd.onnx` has the inputs and outputs of InsightFace's SCRFD with landmarks (`input.1` [1, 3, ?, ?]; per stride 8, 16
and 32 scores [N, 1], boxes [N, 4], landmarks [N, 10] for two anchors a cell), `yunet.onnx` those of OpenCV's YuNet
(`input` [1, 3, H, W]; `cls_8` … `kps_32`), `w600k_tiny.onnx` those of InsightFace's ArcFace networks (`input.1`
[N, 3, 112, 112] to 512 numbers) with the layers of an IResNet, a block per stage. `--large` writes an IResNet-50 of
true size and an SCRFD-like network as wide as the 10-GFLOP one to the folder named, to measure speed with.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import golden

FOLDER = golden.GOLDENS / "faces" / "networks"


class Graph:
    """Nodes and weights, written one behind the other."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights, self.count = [], [], 0

    def name(self):
        self.count += 1
        return str(self.count)

    def weight(self, values):
        name = f"w{self.name()}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, *shape, scale=1.0, mean=0.0):
        return self.weight((self.random.standard_normal(shape) * scale + mean).astype(np.float32))

    def node(self, kind, inputs, output=None, **attributes):
        output = output or self.name()
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def conv(self, x, inputs, outputs, kernel=3, stride=1, output=None, bias=0.0, gain=1.0):
        weight = self.floats(outputs, inputs, kernel, kernel, scale=gain / np.sqrt(inputs * kernel * kernel))
        bias = self.floats(outputs, scale=0.1, mean=bias)
        pad = kernel // 2
        fixed = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, dilations=[1, 1], group=1)
        return self.node("Conv", [x, weight, bias], output, **fixed)

    def norm(self, x, channels, output=None):
        scale, shift, mean = (self.floats(channels, scale=0.1, mean=m) for m in (1.0, 0.0, 0.0))
        variance = self.weight((self.random.random(channels) + 0.5).astype(np.float32))
        return self.node("BatchNormalization", [x, scale, shift, mean, variance], output, epsilon=1e-5, momentum=0.9)

    def prelu(self, x, channels):
        return self.node("PRelu", [x, self.floats(channels, 1, 1, scale=0.1, mean=0.25)])

    def model(self, name, inputs, outputs):
        value = lambda pair: helper.make_tensor_value_info(pair[0], TensorProto.FLOAT, pair[1])
        graph = helper.make_graph(self.nodes, name, list(map(value, inputs)), list(map(value, outputs)), self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
        onnx.checker.check_model(model)
        return model


def iresnet(blocks, widths, seed):
    graph = Graph(seed)
    x = graph.prelu(graph.norm(graph.conv("input.1", 3, widths[0]), widths[0]), widths[0])
    inputs = widths[0]
    for count, width in zip(blocks, widths[1:]):
        for block in range(count):
            stride = 2 if block == 0 else 1
            y = graph.conv(graph.norm(x, inputs), inputs, width)
            y = graph.conv(graph.prelu(graph.norm(y, width), width), width, width, stride=stride)
            y = graph.norm(y, width)
            if block == 0:
                x = graph.norm(graph.conv(x, inputs, width, kernel=1, stride=2), width)
            x = graph.node("Add", [y, x])
            inputs = width
    x = graph.node("Flatten", [graph.norm(x, inputs)], axis=1)
    features = inputs * 7 * 7
    weight, bias = graph.floats(512, features, scale=features**-0.5), graph.floats(512, scale=0.1)
    x = graph.node("Gemm", [x, weight, bias], alpha=1.0, beta=1.0, transB=1)
    x = graph.norm(x, 512, output="683")
    return graph.model("arcface", [("input.1", ["None", 3, 112, 112])], [("683", [1, 512])])


def pyramid(graph, x, width):
    """Features at strides 8, 16 and 32, each also fed from the coarser one."""
    x = graph.node("Relu", [graph.conv(x, 3, width, stride=2)])
    x = graph.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    levels = []
    for _ in range(3):
        x = graph.node("Relu", [graph.conv(x, width, width, stride=2)])
        levels.append(x)
    for index in (1, 0):
        scales = graph.weight(np.array([1, 1, 2, 2], np.float32))
        region = graph.weight(np.zeros(0, np.float32))
        larger = graph.node("Resize", [levels[index + 1], region, scales], mode="nearest", nearest_mode="floor",
                            coordinate_transformation_mode="asymmetric")  # fmt: skip
        levels[index] = graph.node("Add", [levels[index], larger])
    return levels


def rows(graph, x, columns, output, sigmoid=False, batch=False):
    """[1, A·columns, h, w] -> [h·w·A, columns]"""
    x = graph.node("Transpose", [x], perm=[0, 2, 3, 1])
    shape = graph.weight(np.array([1, -1, columns] if batch else [-1, columns], np.int64))
    x = graph.node("Reshape", [x, shape], None if sigmoid else output)
    return graph.node("Sigmoid", [x], output) if sigmoid else x


def scrfd(width, seed, depth=0):
    graph = Graph(seed)
    names = {kind: [f"{kind}_{stride}" for stride in (8, 16, 32)] for kind in ("score", "bbox", "kps")}
    for index, x in enumerate(pyramid(graph, "input.1", width)):
        for _ in range(depth):
            x = graph.node("Relu", [graph.conv(x, width, width)])
        rows(graph, graph.conv(x, width, 2, bias=-1.5, gain=3.0), 1, names["score"][index], sigmoid=True)
        rows(graph, graph.conv(x, width, 8, bias=3.0, gain=0.5), 4, names["bbox"][index])
        rows(graph, graph.conv(x, width, 20), 10, names["kps"][index])
    outputs = [(name, ["n", size]) for kind, size in (("score", 1), ("bbox", 4), ("kps", 10)) for name in names[kind]]
    return graph.model("scrfd", [("input.1", [1, 3, "?", "?"])], outputs)


def yunet(width, seed):
    graph = Graph(seed)
    scaled = graph.node("Mul", ["input", graph.weight(np.float32(1 / 128))])
    outputs = []
    for index, x in enumerate(pyramid(graph, scaled, width)):
        stride = 8 << index
        for kind, columns, sigmoid in (("cls", 1, True), ("obj", 1, True), ("bbox", 4, False), ("kps", 10, False)):
            gain, bias = (4.0, 0.1) if sigmoid else (0.5, 0.5)
            y = graph.conv(x, width, columns, bias=bias, gain=gain)
            rows(graph, y, columns, f"{kind}_{stride}", sigmoid=sigmoid, batch=True)
            outputs.append((f"{kind}_{stride}", [1, "n", columns]))
    order = {"cls": 0, "obj": 1, "bbox": 2, "kps": 3}
    outputs.sort(key=lambda pair: order[pair[0].split("_")[0]])
    return graph.model("yunet", [("input", [1, 3, "height", "width"])], outputs)


def main(options=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=Path, help="also write networks of true size to this folder")
    large = parser.parse_args(options).large
    FOLDER.mkdir(parents=True, exist_ok=True)
    onnx.save(scrfd(8, 1), FOLDER / "scrfd.onnx")
    onnx.save(yunet(8, 2), FOLDER / "yunet.onnx")
    onnx.save(iresnet([1, 1, 1, 1], [4, 4, 4, 4, 2], 3), FOLDER / "w600k_tiny.onnx")
    if large:
        large.mkdir(parents=True, exist_ok=True)
        onnx.save(iresnet([3, 4, 14, 3], [64, 64, 128, 256, 512], 3), large / "iresnet50.onnx")
        onnx.save(scrfd(96, 1, depth=3), large / "scrfd_wide.onnx")
        onnx.save(yunet(64, 2), large / "yunet_wide.onnx")


if __name__ == "__main__":
    main()
