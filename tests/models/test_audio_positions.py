"""Positions of the tokens in an audio window: without them the prediction does not depend on their order."""

from pathlib import Path

import torch
from torch import Tensor

from fantasytalking.checkpoints.released_audio import to_released_audio
from fantasytalking.common.errors import ErrorCode
from fantasytalking.conditions import Conditions
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import load_from_wan
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import BASE, PORTRAIT, save_base, tiny_conditions, tiny_transformer

TOKENS = 7


def predict(model: FantasyTalkingTransformer3DModel, conditions: Conditions) -> Tensor:
    latents = torch.randn(2, 16, 5, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(latents, torch.tensor([300.0, 700.0]), conditions).sample


def reordered(conditions: Conditions) -> Conditions:
    """Reverses the tokens of every window and their mask."""
    return conditions._replace(audio_embeds=conditions.audio_embeds.flip(2), audio_mask=conditions.audio_mask.flip(2))


def test_without_positions_the_order_in_a_window_has_no_effect():
    model, conditions = tiny_transformer(), tiny_conditions(tokens=TOKENS)
    torch.testing.assert_close(predict(model, reordered(conditions)), predict(model, conditions), rtol=0, atol=1e-5)


def test_with_positions_the_order_in_a_window_matters():
    model, conditions = tiny_transformer(audio_positions=TOKENS), tiny_conditions(tokens=TOKENS)
    difference = predict(model, reordered(conditions)) - predict(model, conditions)
    assert difference.abs().max() > 1e-2


def test_the_window_of_a_whole_clip_has_no_positions():
    with_positions, without = tiny_transformer(audio_positions=TOKENS), tiny_transformer()
    without.load_state_dict(
        {name: value for name, value in with_positions.state_dict().items() if "positions" not in name}
    )
    conditions = tiny_conditions(windows=1, tokens=23)
    assert torch.equal(predict(with_positions, conditions), predict(without, conditions))


def test_every_speaker_has_the_same_positions():
    """Two speakers with the same audio give the prediction of one."""
    model, one = tiny_transformer(audio_positions=TOKENS), tiny_conditions(tokens=TOKENS)
    regions = torch.zeros(2, 2, 5, 4, 4, dtype=torch.bool)
    regions[:, 0, ..., :2], regions[:, 1, ..., 2:] = True, True
    both = one._replace(
        audio_embeds=torch.cat([one.audio_embeds, one.audio_embeds], dim=2),
        audio_mask=torch.cat([one.audio_mask, one.audio_mask], dim=2),
        speaker_regions=regions,
    )
    torch.testing.assert_close(predict(model, both), predict(model, one), rtol=0, atol=1e-5)


def test_other_window_lengths_are_rejected():
    with raises_input_error(ErrorCode.shape_mismatch, "audio_embeds", 5):
        predict(tiny_transformer(audio_positions=TOKENS), tiny_conditions(tokens=5))


def test_a_new_model_with_positions_equals_its_base(tmp_path: Path):
    save_base(tmp_path)
    model = load_from_wan(tmp_path, {**PORTRAIT, "audio_positions": TOKENS})
    conditions = tiny_conditions(tokens=TOKENS)
    assert model.audio_projector.positions is not None and model.audio_projector.positions.std() > 0.3
    assert torch.equal(predict(model, conditions), predict(model, reordered(conditions)))
    assert model.config.num_layers == BASE["num_layers"]


def test_the_released_format_cannot_store_positions():
    model = tiny_transformer(audio_positions=TOKENS)
    with raises_input_error(ErrorCode.unsupported, "audio_projector.positions"):
        to_released_audio({name: value for name, value in model.state_dict().items() if "audio_" in name})
