"""Batches of several people: expressions, speech, regions, and people that a clip lacks."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.collate import AudioAlignment, CollateConfig, PortraitCollator, TrainingBatch
from fantasytalking.data.collate_multi_person import RegionBoxes
from fantasytalking.data.dataset import Sample
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from tests.data.feature_corpus import random_features, record, with_driven_faces
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import tiny_transformer

SIZES = ExpressionModuleConfig((6, 6, 8, 16), (0, 0, 2, 3), token_dim=16, width=12, depth=1, heads=2, head_dim=4)


def clip(number: int, people: int, speakers: bool = False) -> Sample:
    features = with_driven_faces(random_features(number), people, number, speakers)
    return Sample(replace(record(number), people=people), features)


def collate(samples: list[Sample], **changes: Any) -> TrainingBatch:
    settings = {"alignment": AudioAlignment.frame, "max_text_tokens": 7, "expression": True, **changes}
    return PortraitCollator(CollateConfig(**settings))(samples)


def model() -> FantasyTalkingTransformer3DModel:
    made = tiny_transformer(text_dim=12, image_dim=10, audio_dim=24, face_dim=512, expression=SIZES.to_dict())
    with torch.no_grad():
        for block in made.blocks:
            block.attn2.expression_v_proj.weight.normal_(std=0.3)
    return made


@torch.no_grad()
def predict(made: FantasyTalkingTransformer3DModel, batch: TrainingBatch) -> Tensor:
    timestep = torch.full((len(batch.latents),), 500.0)
    return made(batch.latents, timestep, batch.conditions).sample


@pytest.mark.parametrize("alignment", AudioAlignment)
def test_a_clip_predicts_the_same_alone_and_beside_clips_of_more_people(alignment: AudioAlignment):
    """Absent people, repeated faces and padded speech change nothing."""
    made, samples = model(), [clip(0, 1), clip(1, 2, speakers=True), clip(2, 3, speakers=True), clip(3, 2)]
    together = collate(samples, alignment=alignment)
    expression = together.conditions.expression
    assert expression is not None and expression.features.shape == (4, 3, 9, 36)
    assert expression.present.any(dim=2).sum(dim=1).tolist() == [1, 2, 3, 2]
    assert together.conditions.face_embeds.shape == (4, 6, 512)
    predicted = predict(made, together)
    for row, sample in enumerate(samples):
        alone = predict(made, collate([sample], alignment=alignment))
        torch.testing.assert_close(predicted[row : row + 1], alone, rtol=0, atol=1e-5)


def test_expression_and_speech_of_every_person_are_limited_to_their_region():
    """Three stripes of one token each, from left to right."""
    sample = clip(0, 3, speakers=True)
    conditions = collate([sample]).conditions
    assert conditions.expression is not None and conditions.expression.regions is not None
    stripes = torch.eye(3, dtype=torch.bool)[None, :, None, None].expand(1, 3, 3, 2, 3)
    assert torch.equal(conditions.expression.regions, stripes)
    assert conditions.speaker_regions is not None and torch.equal(conditions.speaker_regions, stripes)
    speakers, features = sample.features.speakers, conditions.expression.features
    assert speakers is not None and sample.features.expression is not None
    assert torch.equal(features[0], sample.features.expression.float())
    windows = [value.unflatten(2, (3, -1))[0, 1] for value in (conditions.audio_embeds, conditions.audio_mask)]
    for person, (tokens, real) in enumerate(zip(*windows, strict=True)):  # of latent frame 1
        assert real.any()
        rows = {tuple(row.tolist()) for row in speakers[person].float()}
        assert {tuple(row.tolist()) for row in tokens[real]} <= rows


def test_the_order_of_the_people_does_not_matter():
    sample, order = clip(0, 3, speakers=True), [2, 0, 1]
    names = ("face", "expression", "expression_present", "boxes", "speakers")
    turned = replace(sample.features, **{name: getattr(sample.features, name)[order] for name in names})
    made = model()
    expected = predict(made, collate([sample]))
    torch.testing.assert_close(predict(made, collate([sample._replace(features=turned)])), expected, rtol=0, atol=1e-5)
    swapped = replace(sample.features, expression=turned.expression)
    other = predict(made, collate([sample._replace(features=swapped)]))
    assert not torch.allclose(other, expected, atol=1e-3)


def moving(sample: Sample) -> Sample:
    """A face of 16 pixels that moves from the left third of the frame to the right third."""
    left = torch.linspace(0, 32, 9)
    boxes = torch.stack([left, torch.zeros(9), left + 16, torch.full((9,), 16.0)], dim=1)[None]
    return sample._replace(features=replace(sample.features, boxes=boxes))


def test_still_regions_expand_the_first_boxes_and_tracked_regions_follow_the_face():
    samples = [moving(clip(0, 1))]
    regions = {}
    for boxes in RegionBoxes:
        expression = collate(samples, region_boxes=boxes, background=BackgroundAttention.nobody).conditions.expression
        assert expression is not None and expression.regions is not None
        regions[boxes] = expression.regions[0, 0].int().tolist()
    # Expanded to the right by a quarter of the face's size, 4 of the next token's 16 pixels.
    assert regions[RegionBoxes.still] == [[[1, 1, 0], [0, 0, 0]]] * 3
    assert regions[RegionBoxes.tracked] == [[[1, 0, 0], [0] * 3], [[1, 1, 0], [0] * 3], [[0, 1, 1], [0] * 3]]
    everyone = collate(samples).conditions.expression
    assert everyone is not None and everyone.regions is not None and everyone.regions.all()


def test_a_clip_that_lacks_a_feature_is_named():
    bare = Sample(record(4), random_features(4))
    with raises_input_error(ErrorCode.missing_value, "expression", "clip004"):
        collate([clip(0, 1), bare])
    boxless = clip(5, 2, speakers=True)
    features = replace(boxless.features, expression=None, expression_present=None, boxes=None)
    with raises_input_error(ErrorCode.missing_value, "boxes", "clip005"):
        collate([boxless._replace(features=features)], expression=False)
    narrow = clip(6, 1)
    assert narrow.features.expression is not None
    features = replace(narrow.features, expression=narrow.features.expression[..., :30])
    with raises_input_error(ErrorCode.shape_mismatch, "expression", "clip006"):
        collate([clip(0, 1), narrow._replace(features=features)])


def test_a_clip_with_one_audio_track_equals_a_clip_of_one_person():
    sample = clip(0, 2)
    conditions = collate([sample], expression=False).conditions
    assert conditions.speaker_regions is None and conditions.expression is None
    plain = collate([Sample(record(0), random_features(0))], expression=False).conditions
    assert torch.equal(conditions.audio_embeds, plain.audio_embeds) and torch.equal(
        conditions.audio_mask, plain.audio_mask
    )
