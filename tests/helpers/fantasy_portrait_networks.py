"""Networks with the inputs and outputs of FantasyPortrait's detector and landmark network, which see bright spots."""

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fantasytalking.encoders.fantasy_portrait.pd_fgc import PdFgcNetwork
from fantasytalking.encoders.fantasy_portrait.tracker import DETECTOR_FILE, LANDMARKS_FILE

STRIDES = (8, 16, 32)
HALF_FACE = 3
"""Strides from a place to each side of its box."""
SHAPE = np.random.default_rng(5).uniform(-0.5, 0.5, (222, 2))
"""Where the points of a face are about the middle of its spot, in halves of the crop."""
SHAPE[[74, 96]] = [[-0.25, -0.1], [0.25, -0.1]]
SHAPE[[182, 202, 36, 149, 133]] = [[-0.2, -0.1], [0.2, -0.1], [0.0, 0.05], [-0.15, 0.25], [0.15, 0.25]]
SHAPE[[0, 1, 2, 3]] = [[-0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [0.5, -0.5]]
SHAPE[32] = [0.5, 0.0]


def save_fantasy_portrait(folder: Path, brightness: float = 1.0) -> None:
    """The three files of the released front end; the detector sees pictures so much brighter than they are."""
    folder.mkdir(parents=True, exist_ok=True)
    save_detector(folder / DETECTOR_FILE, brightness)
    save_landmarks(folder / LANDMARKS_FILE)
    torch.manual_seed(0)
    torch.save(PdFgcNetwork().state_dict(), folder / "pd_fpg.pth")


def save(path: Path, nodes: list, inputs: list[int], outputs: dict[str, list], constants: dict[str, NDArray]) -> None:
    """Writes a network of one input "x"."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)


def save_detector(path: Path, brightness: float = 1.0) -> None:
    """A face is where red glows over a stride of 8; its box reaches 3 strides to each side. Others see nothing."""
    nodes, outputs = [], {}
    red = np.zeros((1, 3, 1, 1), np.float32)
    red[0, 2] = 58.395 / 255  # the channels are blue, green, red, normalised
    red *= brightness
    constants: dict[str, NDArray] = {"red": red, "dark": np.float32(brightness * 123.675 / 255)}
    nodes += [
        helper.make_node("Conv", ["x", "red"], ["deviation"]),
        helper.make_node("Add", ["deviation", "dark"], ["level"]),
    ]
    for stride, count in zip(STRIDES, (34 * 20, 17 * 10, 9 * 5), strict=True):
        if stride == 8:
            constants["window"] = np.full((1, 1, 8, 8), 1 / 64, np.float32)
            # Place 0 of a row stands at the picture's edge: the window is about it.
            nodes.append(helper.make_node("Conv", ["level", "window"], ["s8m"], strides=[8, 8], pads=[4, 4, 3, 3]))
            constants["rows8"] = np.array([1, -1, 1], np.int64)
            nodes.append(helper.make_node("Reshape", ["s8m", "rows8"], ["s8"]))
        else:
            constants[f"none{stride}"] = np.zeros((1, count, 1), np.float32)
            nodes.append(helper.make_node("Identity", [f"none{stride}"], [f"s{stride}"]))
        outputs[f"s{stride}"] = [1, count, 1]
    for stride, count in zip(STRIDES, (34 * 20, 17 * 10, 9 * 5), strict=True):
        boxes = np.zeros((1, count, 4, 8), np.float32)
        boxes[..., HALF_FACE] = 50
        constants[f"d{stride}"] = boxes.reshape(1, count, 32)
        nodes.append(helper.make_node("Identity", [f"d{stride}"], [f"b{stride}"]))
        outputs[f"b{stride}"] = [1, count, 32]
    save(path, nodes, [1, 3, 272, 160], outputs, constants)


def save_landmarks(path: Path, turn: float = 0.0) -> None:
    """The points are `SHAPE` about the middle of the red in the crop; the face is as likely as there is red."""
    line = ((np.arange(128)) / 128).astype(np.float32)
    x, y = np.meshgrid(line, line)
    red = np.zeros((1, 3, 1, 1), np.float32)
    red[0, 2] = 1
    constants: dict[str, NDArray] = {
        "red": red,
        "places": np.stack([x.ravel(), y.ravel()], axis=1),
        "flat": np.array([1, -1], np.int64),
        "little": np.float32(1e-6),
        "axis": np.array([1], np.int64),
        "shape_x": SHAPE[None, :, 0].astype(np.float32) / 2,
        "shape_y": SHAPE[None, :, 1].astype(np.float32) / 2,
        "first": np.array([[1], [0]], np.float32),
        "second": np.array([[0], [1]], np.float32),
        "angles": np.array([[0.0, turn, 0.0]], np.float32),
        "all": np.float32(1 / 128**2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "red"], ["level"]),
        helper.make_node("Reshape", ["level", "flat"], ["weights"]),
        helper.make_node("ReduceSum", ["weights", "axis"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "little"], ["safe"]),
        helper.make_node("MatMul", ["weights", "places"], ["moment"]),
        helper.make_node("Div", ["moment", "safe"], ["middle"]),
        helper.make_node("MatMul", ["middle", "first"], ["middle_x"]),
        helper.make_node("MatMul", ["middle", "second"], ["middle_y"]),
        helper.make_node("Add", ["middle_x", "shape_x"], ["points_x"]),
        helper.make_node("Add", ["middle_y", "shape_y"], ["points_y"]),
        helper.make_node("Concat", ["points_x", "points_y"], ["points"], axis=1),
        helper.make_node("Identity", ["angles"], ["euler"]),
        helper.make_node("Mul", ["sum", "all"], ["likely"]),
    ]
    save(path, nodes, [1, 3, 128, 128], {"points": [1, 444], "euler": [1, 3], "likely": [1, 1]}, constants)
