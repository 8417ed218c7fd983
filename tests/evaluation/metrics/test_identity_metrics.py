"""Metrics of identity and appearance by tiny networks: definitions, directions, and invalid weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.network_file import load_strict
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.evaluation.features.image_transforms import center_crop, resize_short_side
from fantasytalking.evaluation.metrics.identity.csim import CSIM
from fantasytalking.evaluation.metrics.identity.csim_nano import NanoCSIM
from fantasytalking.evaluation.metrics.identity.idc import IDC, subject_consistency
from fantasytalking.evaluation.metrics.quality.aesthetic import Aesthetic
from fantasytalking.evaluation.metrics.quality.lpips import LPIPS, LPIPSLinearLayers
from fantasytalking.evaluation.metrics.reenactment.expression_similarity import ArcFaceExpressionSimilarity
from fantasytalking.evaluation.networks.alexnet import AlexNetFeatures
from fantasytalking.evaluation.networks.vit import VisionTransformer
from fantasytalking.evaluation.weights import (
    AESTHETIC_HEAD_WEIGHTS,
    ARCFACE_WEIGHTS,
    CLIP_VIT_L_WEIGHTS,
    DINO_WEIGHTS,
    LPIPS_BACKBONE_WEIGHTS,
    LPIPS_HEAD_WEIGHTS,
    NANO_FACE_WEIGHTS,
)
from tests.evaluation.video_edits import brighten, freeze_frames, trim_to_shortest
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_components import export_face_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny or random networks with the names of the real files, whose hashes are not checked."""
    folder = tmp_path_factory.mktemp("weights")
    export_face_network(folder / ARCFACE_WEIGHTS.file)
    shutil.copyfile(folder / ARCFACE_WEIGHTS.file, folder / NANO_FACE_WEIGHTS.file)
    torch.manual_seed(0)
    lines = {name: value.abs() for name, value in LPIPSLinearLayers().state_dict().items()}
    torch.save(lines, folder / LPIPS_HEAD_WEIGHTS.file)
    convolutions = {f"features.{name}": value for name, value in AlexNetFeatures().state_dict().items()}
    torch.save(convolutions | {"classifier.6.bias": torch.zeros(1000)}, folder / LPIPS_BACKBONE_WEIGHTS.file)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / CLIP_VIT_L_WEIGHTS.file)
    torch.save(torch.nn.Linear(8, 1).state_dict(), folder / AESTHETIC_HEAD_WEIGHTS.file)
    return folder


@pytest.mark.parametrize("metric_class", [CSIM, NanoCSIM])
def test_csim_distinguishes_people(weights: Path, clips: list[EvaluationClip], metric_class: type[CSIM]) -> None:
    metric = metric_class(weights)
    mine, other = trim_to_shortest(clips[0].slice_frames(slice(0, 40)), clips[2].slice_frames(slice(0, 40)))
    still, own, swapped = (metric.measure(video, mine) for video in (freeze_frames(mine), mine, other))
    name = metric.name
    assert float(still[name]) == pytest.approx(1, abs=1e-3)
    assert float(swapped[name]) < float(own[name]) < 1
    assert own[f"{name}_curve"].shape == (1,)
    assert set(metric.summarize([own])) == {name, f"{name}_drift", "n"}
    gray = EvaluationClip.from_arrays(np.full((40, 64, 64, 3), 128, np.uint8), 25.0)
    assert metric.summarize([metric.measure(gray, mine), metric.measure(mine, gray)])["n"] == 0


def test_es_compares_faces_at_equal_times(weights: Path, clips: list[EvaluationClip]) -> None:
    metric = ArcFaceExpressionSimilarity(weights)
    mine, other = trim_to_shortest(clips[0].slice_frames(slice(0, 40)), clips[2].slice_frames(slice(0, 40)))
    same, still, swapped = (
        float(metric.measure(video, mine)["es_arcface"]) for video in (mine, freeze_frames(mine), other)
    )
    assert same == pytest.approx(1, abs=1e-6)
    assert same > still > swapped


def test_missing_weights_are_named(tmp_path: Path) -> None:
    for metric in (CSIM, NanoCSIM, ArcFaceExpressionSimilarity, IDC, Aesthetic, LPIPS):
        with raises_input_error(ErrorCode.missing_weights, "--weights", metric.required_weights[0].file):
            metric(tmp_path)


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(dim=32, depth=2, heads=4, patch=8, size=32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    return network.eval()


def test_the_vision_transformer_equals_that_of_transformers() -> None:
    ours = tiny_vit()
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    theirs = ViTModel(config, add_pooling_layer=False).eval()
    tensors = dict(ours.state_dict())
    for number in range(2):
        for kind in ("weight", "bias"):
            parts = tensors.pop(f"blocks.{number}.attn.qkv.{kind}").chunk(3)
            tensors |= {f"layers.{number}.attention.{p}_proj.{kind}": x for p, x in zip("qkv", parts, strict=True)}
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "layers.",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
    }
    for old, new in names.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    tensors = {
        name.replace("norm.", "layernorm.") if name.startswith("norm.") else name: x for name, x in tensors.items()
    }
    theirs.load_state_dict(tensors)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(images).last_hidden_state[:, 0]
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)
        # Wider images: the vector of a position stays near its position.
        assert ours(torch.randn(1, 3, 32, 52)).shape == (1, 32)
        stretched = ours._positions(4, 8).unflatten(1, (4, 8))
        square = ours.pos_embed[:, 1:].unflatten(1, (4, 4))
        assert (stretched[:, :, ::2] - square).norm() < (stretched[:, :, ::2].flip(2) - square).norm()
    assert VisionTransformer().pos_embed.shape == (1, 197, 768)


def test_subject_consistency_is_that_of_vbench() -> None:
    features = np.array([[1.0, 0], [0, 2], [-3, 0]])
    # Frame 1: 0 to both. Frame 2: 0 to the previous frame, -1 (counted as 0) to the first.
    assert subject_consistency(features) == 0
    assert subject_consistency(np.array([[1.0, 0], [1, 1]])) == pytest.approx(np.sqrt(0.5))
    assert subject_consistency(np.ones((4, 3))) == pytest.approx(1)
    assert np.isnan(subject_consistency(np.ones((1, 3))))


class TinyIDC(IDC):
    """IDC with a small transformer."""

    def _load(self, path: Path) -> VisionTransformer:
        return load_strict(VisionTransformer(dim=32, depth=2, heads=4, patch=8, size=32), path)


def test_idc_falls_when_another_person_appears(clips: list[EvaluationClip], tmp_path: Path) -> None:
    torch.save(tiny_vit().state_dict(), tmp_path / DINO_WEIGHTS.file)
    with pytest.raises(InputError, match=DINO_WEIGHTS.file + ".* missing"):
        IDC(tmp_path)
    metric = TinyIDC(tmp_path)
    mine, other = trim_to_shortest(clips[0].slice_frames(slice(0, 12)), clips[2].slice_frames(slice(0, 12)))
    mixed = EvaluationClip.from_arrays(np.concatenate([mine.frames[:6], other.frames[:6]]), 25.0)
    still, own, swapped = (metric.measure(video, None) for video in (freeze_frames(mine), mine, mixed))
    for name in ("idc_face", "idc_frame"):
        assert float(still[name]) == pytest.approx(1, abs=1e-5)
        assert float(swapped[name]) < float(own[name]) < 1


def test_images_are_resized_by_the_shorter_side() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 48, 96, 3), dtype=np.uint8)
    scaled = resize_short_side(frames, 24, "bilinear")
    assert scaled.shape == (2, 24, 48, 3)
    assert np.array_equal(
        scaled[0, 3, 5], frames[0, 6:8, 10:12].astype(float).mean(axis=(0, 1)).round().astype(np.uint8)
    )
    assert np.array_equal(center_crop(frames, 48), frames[:, :, 24:72])


def test_the_aesthetic_score_is_that_of_the_head_over_ten(weights: Path, clips: list[EvaluationClip]) -> None:
    metric = Aesthetic(weights)
    still = freeze_frames(clips[0].slice_frames(slice(0, 3)))
    score = float(metric.measure(still, None)["aesthetic"])
    head = torch.load(weights / AESTHETIC_HEAD_WEIGHTS.file)
    bound = float(head["weight"].norm())
    assert abs(10 * score - float(head["bias"])) <= bound
    assert score != float(metric.measure(brighten(still, 60), None)["aesthetic"])
    assert metric.summarize([{"aesthetic": np.array(score)}]) == {"aesthetic": score, "n": 1}


def test_lpips_is_its_formula(weights: Path, clips: list[EvaluationClip]) -> None:
    metric = LPIPS(weights)
    clip = clips[0].slice_frames(slice(0, 10))
    scores = [float(metric.measure(brighten(clip, by), clip)["lpips"]) for by in (0, 20, 80)]
    assert scores[0] == pytest.approx(0, abs=1e-9)
    assert scores[0] < scores[1] < scores[2]
    one, other = clip.frames[:1], brighten(clip, 20).frames[:1]
    expected = 0.0
    network, head = (
        AlexNetFeatures.from_file(weights / LPIPS_BACKBONE_WEIGHTS.file),
        torch.load(weights / LPIPS_HEAD_WEIGHTS.file),
    )
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        # The original's scaling of [-1, 1] is ImageNet's of [0, 1], to its digits.
        pair = [torch.from_numpy((x / 255 - mean) / deviation).float().permute(0, 3, 1, 2) for x in (one, other)]
        for number, (a, b) in enumerate(zip(*(network.activations(x) for x in pair), strict=True)):
            difference = torch.nn.functional.normalize(a, dim=1) - torch.nn.functional.normalize(b, dim=1)
            line = head[f"lin{number}.model.1.weight"].flatten()
            expected += float(torch.einsum("c,bchw->bhw", line, difference**2).mean())
    assert float(metric.distances(one, other)) == pytest.approx(expected, rel=1e-3)
    tiny = EvaluationClip.from_arrays(np.zeros((2, 32, 32, 3), np.uint8), 25.0)
    assert metric.summarize([metric.measure(tiny, tiny)])["n"] == 0


def test_the_released_linear_layers_of_lpips_load() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    path = Path(functional.__file__).parent / "lpips_models" / "alex.pth"
    lines = load_strict(LPIPSLinearLayers(), path)
    assert all(float(weight.min()) >= 0 for weight in lines.parameters())
