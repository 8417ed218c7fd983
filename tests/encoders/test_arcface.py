"""ArcFace with a tiny network: alignment, channel order, and malformed files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders import onnx_file
from fantasytalking.encoders.arcface import FaceEncoder
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_components import tiny_face_network

STANDARD_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""ArcFace's template of eyes, nose and mouth in an image of 112 x 112."""


@pytest.fixture(scope="module")
def encoder(components: Path) -> FaceEncoder:
    return FaceEncoder.from_pretrained(components / "face_encoder")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    smooth = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return np.kron(smooth, np.ones((40, 40, 1), dtype=np.uint8))


def test_embedding_is_the_networks_on_rgb_in_signed_unit_range(encoder: FaceEncoder, picture: np.ndarray) -> None:
    face = picture[100:212, 60:172]
    with torch.no_grad():
        inputs = (torch.from_numpy(face.copy()).permute(2, 0, 1)[None].float() - 127.5) / 127.5
        expected = torch.nn.functional.normalize(tiny_face_network()(inputs))[0]
    embedding = encoder.encode_aligned(face)
    assert embedding.shape == (512,) and embedding.dtype == np.float32
    assert np.isclose(np.linalg.norm(embedding), 1, atol=1e-6)
    np.testing.assert_allclose(embedding, expected.numpy(), atol=1e-5)


def test_alignment_undoes_translation_scale_and_rotation(encoder: FaceEncoder, picture: np.ndarray) -> None:
    angle, scale, shift = 0.3, 1.7, np.array([60.0, 40.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    aligned = encoder.align(picture, STANDARD_POINTS @ turn.T + shift)
    for x, y in [(20, 30), (56, 56), (90, 80)]:
        column, row = (turn @ np.array([x, y]) + shift).round().astype(int)
        assert np.abs(aligned[y, x].astype(int) - picture[row, column].astype(int)).max() < 90


def test_points_at_the_template_give_the_image_itself(encoder: FaceEncoder, picture: np.ndarray) -> None:
    face = np.ascontiguousarray(picture[:112, :112])
    assert np.array_equal(encoder.align(face, STANDARD_POINTS), face)
    assert np.array_equal(encoder.encode(face, STANDARD_POINTS), encoder.encode_aligned(face))


def save_network(path: Path, inputs: list[list[int]], outputs: list[int]) -> Path:
    values = [helper.make_tensor_value_info(f"in{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(inputs)]
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, outputs)
    node = helper.make_node("Flatten", ["in0"], ["out"])
    onnx.save(helper.make_model(helper.make_graph([node], "net", values, [result])), path)
    return path


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ([[1, 3, 128, 128]], [1, 512]),
        ([[1, 3, 112, 112]], [1, 128]),
        ([[1, 3, 112, 112]] * 2, [1, 512]),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, inputs: list[list[int]], output: list[int]) -> None:
    with raises_input_error(ErrorCode.shape_mismatch, "face_encoder", (inputs, [output])):
        FaceEncoder.from_pretrained(save_network(tmp_path / "other.onnx", inputs, output))


def failing_network(path: Path, kind: str) -> Path:
    """A network with the right inputs and outputs, as far as it says."""
    value = helper.make_tensor_value_info("in0", TensorProto.FLOAT, [1, 3, 112, 112])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 512])
    constants = [helper.make_tensor("row", TensorProto.INT64, [2], [1, -1])]
    nodes = [helper.make_node("Reshape", ["in0", "row"], ["flat"])]
    if kind == "fails":  # an index that is known only from the image
        nodes += [
            helper.make_node("ReduceSum", ["in0"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "sum"], ["square"]),
            helper.make_node("Add", ["square", "far"], ["place"]),
            helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["flat", "index"], ["out"], axis=1),
        ]
        constants.append(helper.make_tensor("far", TensorProto.FLOAT, [], [1e9]))
    elif kind == "other size":
        nodes.append(helper.make_node("Identity", ["flat"], ["out"]))
    else:
        nodes += [
            helper.make_node("Slice", ["flat", "begin", "end", "axis"], ["part"]),
            helper.make_node("Div", ["part", "zero"], ["out"]),
        ]
        numbers = {"begin": 0, "end": 512, "axis": 1}
        constants += [helper.make_tensor(name, TensorProto.INT64, [1], [number]) for name, number in numbers.items()]
        constants.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
    opset = [helper.make_opsetid("", 17)]
    graph = helper.make_graph(nodes, "net", [value], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.mark.parametrize("kind", ["fails", "other size", "not finite"])
def test_networks_that_fail_only_when_run_end_in_one_line(tmp_path: Path, picture: np.ndarray, kind: str) -> None:
    encoder = FaceEncoder.from_pretrained(failing_network(tmp_path / "net.onnx", kind))
    with pytest.raises(InputError) as error:
        encoder.encode_aligned(picture[:112, :112])
    assert "\n" not in str(error.value) and "give another file" in str(error.value)


def test_weights_in_other_files_are_found_in_nodes_too(tmp_path: Path) -> None:
    tensor = helper.make_tensor("weights", TensorProto.FLOAT, [1, 512], np.zeros(512).tolist())
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside")
    value = helper.make_tensor_value_info("in0", TensorProto.FLOAT, [1, 3, 112, 112])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 512])
    node = helper.make_node("Constant", [], ["out"], value=tensor)
    path = tmp_path / "net.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "net", [value], [result])).SerializeToString())
    with raises_input_error(ErrorCode.unsupported, "face encoder", str(path)):
        FaceEncoder.from_pretrained(path)


def test_files_that_are_not_networks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not exist"):
        FaceEncoder.from_pretrained(tmp_path / "nothing.onnx")
    with raises_input_error(ErrorCode.missing_weights, "face_encoder", 0):
        FaceEncoder.from_pretrained(tmp_path)
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"\xff" * 2000)
    with raises_input_error(ErrorCode.malformed_file, "face encoder", str(junk)):
        FaceEncoder.from_pretrained(junk)
    monkeypatch.setattr(onnx_file, "MAX_ONNX_BYTES", 1000)
    with raises_input_error(ErrorCode.out_of_range, "face encoder", 2000):
        FaceEncoder.from_pretrained(junk)
