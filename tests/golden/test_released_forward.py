"""Our forward on released weights equals the released code's, by the goldens in this folder.

`make_golden.py` makes the goldens from the authors' repositories. The weights take a user's way: the released
checkpoint is converted to an adapter and loaded onto a base under Wan's original names.
"""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fantasytalking.attention_regions import expand_boxes, regions_from_masks
from fantasytalking.audio_windows import clip_level_window, released_frame_windows
from fantasytalking.checkpoints.adapter import load_adapter
from fantasytalking.checkpoints.convert import convert_checkpoint
from fantasytalking.conditions import Conditions, ExpressionCondition
from fantasytalking.latent_geometry import WAN21_GEOMETRY
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import load_from_wan
from tests.golden import cases

TOLERANCE = 2e-6
"""Largest difference allowed, relative to the largest released value. 6e-7 is measured."""
SMALL = {"face_tokens": 1, "face_token_dim": 8, "face_width": 8, "face_depth": 1, "face_heads": 1, "motion_width": 8}
"""Sizes of the modules that the released code does not have. Fresh, they add nothing."""


@dataclass
class Golden:
    """A golden file and the weights that it was made with."""

    outputs: dict[str, Tensor]
    wan: dict[str, Tensor]
    """The base's weights under Wan's original names."""
    released: dict[str, Tensor]
    """The released checkpoint's weights, with its parts as prefixes."""


def read(name: str) -> Golden:
    path = cases.FOLDER / f"{name}.safetensors"
    with safe_open(path, framework="pt") as handle:
        shapes = json.loads(handle.metadata()[cases.METADATA])["shapes"]
    return Golden(load_file(path), cases.weights(shapes["wan"]), cases.weights(shapes["released"]))


def build(golden: Golden, folder: Path) -> FantasyTalkingTransformer3DModel:
    """Our model from files as released: Wan's weights in one file, and the .ckpt, which is converted to an adapter."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in golden.released.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    torch.save(parts, folder / "released.ckpt")
    save_file(golden.wan, folder / "wan.safetensors", metadata={"num_heads": str(cases.WAN["num_heads"])})
    convert_checkpoint(folder / "released.ckpt", folder / "adapter")
    model = load_from_wan(
        folder / "wan.safetensors",
        {"audio_dim": cases.AUDIO_DIM, "audio_token_dim": cases.AUDIO_TOKEN_DIM, **SMALL},
    )
    load_adapter(model, folder / "adapter")
    return model


def predict(model: FantasyTalkingTransformer3DModel, size: tuple[int, int], **conditions: Any) -> Tensor:
    """Our prediction from the inputs of `cases`; without `conditions`, audio is off and no one is driven."""
    inputs = cases.base_inputs(size)
    neutral: dict[str, Any] = {
        "audio_embeds": torch.zeros(1, 1, 1, cases.AUDIO_DIM),
        "audio_mask": torch.zeros(1, 1, 1, dtype=torch.bool),
        "face_embeds": torch.zeros(1, 1, 512),
        "motion_intensity": torch.full((1, 2), 0.5),
        "condition_scale": torch.zeros(1, 2),
    }
    given = Conditions(
        prompt_embeds=inputs["text_embeds"],
        image_embeds=inputs["image_embeds"],
        image_latents=inputs["image_condition"],
        **{**neutral, **conditions},
    )
    with torch.no_grad():
        return model(inputs["latents"], inputs["timestep"], given).sample


def audio_predictions(model: FantasyTalkingTransformer3DModel) -> dict[str, Tensor]:
    features = cases.audio_features()
    windows = {"frame": released_frame_windows(features, cases.NUM_FRAMES, 4), "clip": clip_level_window(features)}

    def driven(level: str, scale: float) -> Tensor:
        tokens, mask = windows[level]
        return predict(
            model, cases.AUDIO_SIZE, audio_embeds=tokens, audio_mask=mask, condition_scale=torch.tensor([[scale, 0.0]])
        )

    predictions = {level: driven(level, scale) for level, scale in cases.AUDIO_SCALES.items()}
    return {**predictions, "silent": driven("frame", 0.0)}


def face_masks(boxes: Tensor) -> Tensor:
    """Pixel masks (people, height, width) of the boxes (people, 4)."""
    height, width = cases.PICTURE
    masks = torch.zeros(len(boxes), height, width)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return masks


def portrait_predictions(model: FantasyTalkingTransformer3DModel, boxes: Tensor) -> dict[str, Tensor]:
    features = cases.expression_features()[None]  # (1, P, N, 554)

    def driven(people: int, scale: float, regions: Tensor | None) -> Tensor:
        present = torch.ones(1, people, cases.NUM_FRAMES, dtype=torch.bool)
        expression = ExpressionCondition(features[:, :people], present, regions, scale=torch.tensor([scale]))
        return predict(model, cases.PORTRAIT_SIZE, expression=expression)

    regions = regions_from_masks(face_masks(boxes), cases.NUM_FRAMES, WAN21_GEOMETRY)[None]
    return {
        "single": driven(1, cases.PORTRAIT_SCALES["single"], None),
        "two": driven(2, cases.PORTRAIT_SCALES["two"], regions),
        "undriven": predict(model, cases.PORTRAIT_SIZE),
    }


def difference(ours: Tensor, released: Tensor) -> float:
    """The largest difference, relative to the largest released value."""
    assert ours.shape == released.shape
    return ((ours - released).abs().max() / released.abs().max()).item()


@pytest.fixture(scope="module")
def audio() -> Golden:
    return read("audio")


@pytest.fixture(scope="module")
def portrait() -> Golden:
    return read("portrait")


def test_audio_per_frame_on_the_clip_and_off(audio, tmp_path):
    model = build(audio, tmp_path)
    for name, prediction in audio_predictions(model).items():
        assert difference(prediction, audio.outputs[name]) < TOLERANCE, name
    with torch.no_grad():
        projected = model.audio_projector(cases.audio_features(), frame_level=False)
    windows = released_frame_windows(projected, cases.NUM_FRAMES, 4)
    assert difference(windows.tokens, audio.outputs["windows"]) < TOLERANCE
    assert torch.equal(windows.mask[0].sum(dim=1), audio.outputs["window_lengths"])
    assert len(set(audio.outputs["window_lengths"].tolist())) == 3, "first and last windows must be padded"


def test_expression_of_one_and_of_two_people_and_off(portrait, tmp_path):
    model = build(portrait, tmp_path)
    for name, prediction in portrait_predictions(model, portrait.outputs["boxes"]).items():
        assert difference(prediction, portrait.outputs[name]) < TOLERANCE, name


def test_faces_widen_by_their_drivers_movement_as_released(portrait):
    height, width = cases.PICTURE
    faces, drivers = (torch.tensor(boxes, dtype=torch.float64) for boxes in (cases.FACES, cases.DRIVING_FACES))
    widened = expand_boxes(faces, drivers).clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    assert torch.equal(widened.long(), portrait.outputs["boxes"])


def test_every_condition_changes_the_released_prediction(audio, portrait):
    for golden, names in ((audio, ("frame", "clip", "silent")), (portrait, ("single", "two", "undriven"))):
        for one, other in combinations(names, 2):
            assert difference(golden.outputs[one], golden.outputs[other]) > 0.1, (one, other)


CHANGES = [
    ("audio", "wan", "blocks.1.self_attn.norm_q.weight"),
    ("audio", "released", "audio_processor.blocks.0.cross_attn.processor.k_proj.weight"),
    ("portrait", "released", "mouth_proj_model.layers.1.0.to_kv.weight"),
]


@pytest.mark.parametrize(("name", "part", "weight"), CHANGES)
def test_one_changed_value_of_one_weight_is_noticed(name, part, weight, tmp_path):
    golden = read(name)
    getattr(golden, part)[weight].view(-1)[0] += 0.1
    model = build(golden, tmp_path)
    made = audio_predictions(model) if name == "audio" else portrait_predictions(model, golden.outputs["boxes"])
    assert max(difference(value, golden.outputs[case]) for case, value in made.items()) > TOLERANCE
