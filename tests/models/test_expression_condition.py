"""The expression condition: no effect when new or absent, regions per person, masked or attended padding."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fantasytalking.audio_windows import AudioWindows, join_speaker_windows
from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, save_adapter
from fantasytalking.checkpoints.expression_adapter import ensure_expression_modules
from fantasytalking.common.errors import ErrorCode
from fantasytalking.conditions import Conditions, ExpressionCondition
from fantasytalking.models.attention_windows import LocalTokens, build_windowed_attention
from fantasytalking.models.expression_config import (
    LEARNED_TOKEN_COUNTS,
    ExpressionModuleConfig,
    upgrade_expression_keys,
)
from fantasytalking.models.expression_projector import (
    ExpressionProjector,
    match_parameter_count,
    projector_parameter_count,
)
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of, check_transformer_folder, load_from_wan
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_transformer import PORTRAIT, save_base, tiny_conditions, tiny_latents, tiny_transformer

SIZES = ExpressionModuleConfig((3, 2, 4, 5), (0, 0, 2, 3), token_dim=16, width=12, depth=1, heads=2, head_dim=4)
EXPRESSION = {"expression": SIZES.to_dict()}
FRAMES, GRID = 3, (4, 4)
NUM_FRAMES = 4 * (FRAMES - 1) + 1


def expressive(trained: bool = True, seed: int = 0, **changes: Any) -> FantasyTalkingTransformer3DModel:
    """A tiny model with an expression condition; `trained` moves its values away from zero."""
    model = tiny_transformer(seed, trained, expression=replace(SIZES, **changes).to_dict())
    if trained:
        with torch.no_grad():
            for block in model.blocks:
                block.attn2.expression_v_proj.weight.normal_(std=0.3)
    return model


def columns(people: int) -> Tensor:
    """Assigns a column of the token grid to each person, (1, people, F, 4, 4); the other columns are background."""
    regions = torch.zeros(1, people, FRAMES, *GRID, dtype=torch.bool)
    for person in range(people):
        regions[:, person, :, :, person] = True
    return regions


def driven(people: int = 1, seed: int = 5) -> ExpressionCondition:
    generator = torch.Generator().manual_seed(seed)
    return ExpressionCondition(
        features=torch.randn(1, people, NUM_FRAMES, 14, generator=generator),
        present=torch.ones(1, people, NUM_FRAMES, dtype=torch.bool),
        regions=columns(people) if people > 1 else None,
        scale=torch.ones(1),
    )


def conditions_with(expression: ExpressionCondition | None) -> Conditions:
    return tiny_conditions(batch=1, frames=FRAMES)._replace(expression=expression)


@torch.no_grad()
def predict(
    model: FantasyTalkingTransformer3DModel, conditions: Conditions, cache: ConditionKVCache | None = None
) -> Tensor:
    latents, timestep = tiny_latents(batch=1, frames=FRAMES)
    return model(latents, timestep, conditions, cache=cache).sample


def attended_by_tokens(model: FantasyTalkingTransformer3DModel, *branches: Conditions) -> list[Tensor]:
    """Output of the first cross-attention for each of `branches`, (F, h, w, dim), before later layers mix tokens."""
    seen: list[Tensor] = []
    hook = model.blocks[0].attn2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for conditions in branches:
        predict(model, conditions)
    hook.remove()
    return [output[0].unflatten(0, (FRAMES, *GRID)) for output in seen]


def test_a_fresh_model_and_an_absent_condition_equal_the_base_bit_for_bit(tmp_path):
    folder = save_base(tmp_path / "transformer")
    base = WanTransformer3DModel.from_pretrained(folder)
    fresh = load_from_wan(folder, PORTRAIT | EXPRESSION)
    conditions = conditions_with(driven())._replace(prompt_embeds=torch.randn(1, 512, 20))
    latents, timestep = tiny_latents(batch=1, frames=FRAMES)
    with torch.no_grad():
        expected = base(
            torch.cat([latents, conditions.image_latents], dim=1),
            timestep,
            conditions.prompt_embeds,
            conditions.image_embeds,
        ).sample
    assert torch.equal(predict(fresh, conditions), expected)
    trained, without = expressive(), tiny_transformer()
    without.load_state_dict({k: v for k, v in trained.state_dict().items() if adapter_module_of(k) != "expression"})
    assert torch.equal(predict(trained, conditions_with(None)), predict(without, conditions_with(None)))


def test_every_part_has_an_effect_weighted_by_both_scales():
    model, expression = expressive(), driven()
    absent, reference = predict(model, conditions_with(None)), predict(model, conditions_with(expression))
    for part in (slice(0, 3), slice(3, 5), slice(5, 9), slice(9, 14)):
        features = expression.features.clone()
        features[..., part] += 1.0
        changed = predict(model, conditions_with(expression._replace(features=features)))
        assert not torch.allclose(changed, reference, atol=1e-4)
    assert torch.equal(predict(model, conditions_with(expression._replace(scale=torch.zeros(1)))), absent)
    model.configure_expression(replace(SIZES, scale=0.5))
    half = predict(model, conditions_with(expression))
    model.configure_expression(SIZES)
    assert torch.equal(half, predict(model, conditions_with(expression._replace(scale=torch.full((1,), 0.5)))))


def test_a_frame_affects_its_own_latent_frame_only():
    model, expression = expressive(), driven()
    features = expression.features.clone()
    features[:, :, 2] += 1.0  # of frames 1 to 4: latent frame 1
    before, after = attended_by_tokens(
        model, conditions_with(expression), conditions_with(expression._replace(features=features))
    )
    difference = (after - before).abs().amax(dim=(1, 2, 3))
    assert difference[1] > 1e-3
    assert difference[[0, 2]].max() == 0


@pytest.mark.parametrize("positions", [0, 1])
def test_only_positions_distinguish_the_order_of_a_latent_frames_frames(positions):
    model = expressive(positions=positions)
    expression = driven()
    # The last latent frame's four frames in reverse order: the same tokens in another order.
    reversed_features = expression.features.clone()
    reversed_features[:, :, -4:] = expression.features[:, :, -4:].flip(2)
    forward, backward = (
        predict(model, conditions_with(expression._replace(features=features)))
        for features in (expression.features, reversed_features)
    )
    assert torch.allclose(forward, backward, atol=1e-5) == (not positions)


@pytest.mark.parametrize("people", [2, 3])
def test_an_expression_does_not_reach_another_persons_tokens(people):
    model, expression = expressive(), driven(people)
    moved = []
    for person in range(people):
        features = expression.features.clone()
        features[:, person] += 1.0
        moved.append(conditions_with(expression._replace(features=features)))
    before, *after = attended_by_tokens(model, conditions_with(expression), *moved)
    for person, attended in enumerate(after):
        by_column = (attended - before).abs().amax(dim=(0, 1, 3))
        assert by_column[person] > 1e-3
        assert by_column[[column for column in range(4) if column != person]].max() == 0
    # With regions of all tokens, every expression reaches everyone.
    everyone = expression._replace(regions=torch.ones_like(columns(people)))
    moved_features = moved[0].expression
    assert moved_features is not None
    before, reached = attended_by_tokens(
        model, conditions_with(everyone), conditions_with(everyone._replace(features=moved_features.features))
    )
    assert (reached - before).abs().amax(dim=(0, 1, 3)).min() > 1e-4


def test_the_order_of_people_has_no_effect_and_swapped_expressions_have():
    model, expression = expressive(), driven(3)
    reference = predict(model, conditions_with(expression))
    order = torch.tensor([2, 0, 1])
    assert expression.regions is not None
    turned = ExpressionCondition(
        expression.features[:, order], expression.present[:, order], expression.regions[:, order], expression.scale
    )
    torch.testing.assert_close(predict(model, conditions_with(turned)), reference, rtol=0, atol=1e-5)
    swapped = predict(model, conditions_with(expression._replace(features=expression.features[:, order])))
    assert not torch.allclose(swapped, reference, atol=1e-3)


def test_tokens_without_a_person_are_unchanged():
    model, expression = expressive(), driven(2)
    nobody = expression._replace(regions=torch.zeros_like(columns(2)))
    unseen = driven()._replace(present=torch.zeros(1, 1, NUM_FRAMES, dtype=torch.bool))
    unseen.features.fill_(torch.nan)
    absent = predict(model, conditions_with(None))
    assert torch.equal(predict(model, conditions_with(nobody)), absent)
    for padding in ("masked", "attended"):
        model.configure_expression(replace(SIZES, padding=padding))
        assert torch.equal(predict(model, conditions_with(unseen)), absent)
    some, none = attended_by_tokens(model, conditions_with(expression), conditions_with(None))
    difference = (some - none).abs().amax(dim=(0, 1, 3))
    assert difference[:2].min() > 1e-3
    assert difference[2:].max() == 0


def test_an_absent_person_changes_nothing():
    model, pair = expressive(), driven(2)
    pair.present[:, 1] = False
    pair.features[:, 1] = torch.nan
    assert pair.regions is not None
    alone = ExpressionCondition(pair.features[:, :1], pair.present[:, :1], pair.regions[:, :1], pair.scale)
    for padding in ("masked", "attended"):
        model.configure_expression(replace(SIZES, padding=padding))
        torch.testing.assert_close(
            predict(model, conditions_with(pair)), predict(model, conditions_with(alone)), rtol=1e-6, atol=1e-6
        )


def test_cached_and_uncached_agree_over_steps_and_branches():
    model, cache, expression = expressive(), ConditionKVCache(), driven(2)
    full = conditions_with(expression)
    still = full._replace(expression=expression._replace(scale=torch.zeros(1)))
    for _ in range(2):
        for branch in (full, still, full._replace(expression=None)):
            assert torch.equal(predict(model, branch, cache), predict(model, branch))


def test_windows_contain_a_latent_frames_tokens_as_released():
    torch.manual_seed(0)
    sizes = ExpressionModuleConfig((6, 6, 30, 512), token_dim=8, width=16, depth=1, heads=2, head_dim=8)
    projector = ExpressionProjector(sizes)
    present = torch.ones(1, 2, 9, dtype=torch.bool)
    assert projector.tokens_per_frame == 24
    assert projector.window_mask(present, "masked")[0, :, 1].sum(-1).tolist() == [24, 97, 97]
    assert projector.window_mask(present, "attended").all()
    features = torch.randn(1, 2, 9, 554)
    windows, tokens = projector.window_tokens(features, present), projector(features).flatten(2, 3)
    assert windows.shape == (1, 3, 2 * 97, 8)
    assert torch.equal(windows[0, 2, 97:], tokens[0, 1, 96 * 2 - 73 : 96 * 2 + 24])
    assert torch.equal(windows[0, 0, :24], tokens[0, 0, :24])
    assert windows[0, 0, 24:97].abs().max() == 0


@pytest.mark.parametrize("name", LEARNED_TOKEN_COUNTS)
def test_every_augmentation_runs_and_trains_from_the_first_step(name):
    model = expressive(learned=LEARNED_TOKEN_COUNTS[name]).train()
    latents, timestep = tiny_latents(batch=1, frames=FRAMES)
    model(latents, timestep, conditions_with(driven())).sample.square().mean().backward()
    parameters = dict(model.named_parameters())
    names = [n for n in parameters if adapter_module_of(n) == "expression"]
    assert all(parameters[n].grad is not None and parameters[n].grad.abs().max() > 0 for n in names)
    assert sum("queries" in n for n in names) == {"none": 0, "emotion_and_mouth": 2, "all": 4}[name]


@pytest.mark.parametrize(
    ("name", "like"), [("none", "emotion_and_mouth"), ("none", "all"), ("emotion_and_mouth", "all")]
)
def test_an_augmentation_can_be_widened_to_the_parameter_count_of_another(name, like):
    released = ExpressionModuleConfig((6, 6, 30, 512), LEARNED_TOKEN_COUNTS[name])
    small = ExpressionModuleConfig((6, 6, 8, 16), LEARNED_TOKEN_COUNTS[name], 256, 128, 2, 4, 32)
    for sizes in (released, small):
        wide = match_parameter_count(sizes, like)
        assert wide.learned == sizes.learned
        other = replace(sizes, learned=LEARNED_TOKEN_COUNTS[like])
        assert projector_parameter_count(wide) == pytest.approx(projector_parameter_count(other), rel=0.005)
        assert projector_parameter_count(sizes) < 0.7 * projector_parameter_count(other)
    made = expressive(plain_width=5)
    assert predict(made, conditions_with(driven())).isfinite().all()
    with raises_input_error(ErrorCode.out_of_range, "augmentation", name):
        match_parameter_count(replace(released, learned=LEARNED_TOKEN_COUNTS[like]), name)


def test_an_adapter_stores_the_expression_and_sets_the_treatment_of_padding(tmp_path):
    source = expressive()
    config = AdapterConfig(["expression"], "seconds", expression=replace(SIZES, padding="attended").to_dict())
    save_adapter(source, tmp_path / "adapter", config)
    for target in (expressive(seed=3, trained=False), tiny_transformer(seed=3)):
        load_adapter(target, tmp_path / "adapter")
        assert target.config.expression["padding"] == "attended"
        ours, theirs = target.state_dict(), source.state_dict()
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs if adapter_module_of(n) == "expression")
    with raises_input_error(ErrorCode.shape_mismatch, "expression", config.expression):
        load_adapter(expressive(heads=1, head_dim=8), tmp_path / "adapter")


def test_an_added_condition_equals_a_built_in_one(tmp_path):
    built, added = expressive(trained=False), tiny_transformer(trained=False)
    ensure_expression_modules(added, SIZES)
    assert {n: v.shape for n, v in added.state_dict().items()} == {n: v.shape for n, v in built.state_dict().items()}
    conditions = conditions_with(driven())
    assert torch.equal(predict(added, conditions), predict(added, conditions._replace(expression=None))), (
        "new, it adds nothing"
    )
    added.load_state_dict(expressive().state_dict())
    assert torch.equal(predict(added, conditions), predict(expressive(), conditions))
    added.save_pretrained(tmp_path / "model")
    again = FantasyTalkingTransformer3DModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(predict(again, conditions), predict(expressive(), conditions), rtol=0, atol=1e-5)
    with raises_input_error(ErrorCode.shape_mismatch, "expression", SIZES.to_dict()) as error:
        ensure_expression_modules(added, replace(SIZES, depth=2))
    assert "'depth': 2" in str(error.value)


def old_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a transformer as earlier releases wrote it."""
    section = config.pop("expression")
    return config | {f"expression_{name}": value for name, value in section.items() if name != "temporal_stride"}


def test_models_and_adapters_of_earlier_releases_are_read(tmp_path):
    attended = replace(SIZES, padding="attended", scale=0.5)
    source = expressive(padding="attended", scale=0.5)
    source.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(old_keys(json.loads(path.read_text()))))
    check_transformer_folder(tmp_path / "model")
    again = FantasyTalkingTransformer3DModel.from_pretrained(tmp_path / "model")
    assert again.expression_config == attended and again.config.expression == attended.to_dict()
    assert not any(name.startswith("expression_") for name in again.config)
    assert load_from_wan(tmp_path / "model").expression_config is None, "of a portrait transformer, the base"

    save_adapter(source, tmp_path / "adapter", AdapterConfig(["expression"], "seconds", expression=SIZES.to_dict()))
    path = tmp_path / "adapter" / "config.json"
    described = json.loads(path.read_text())
    for name in ("padding", "scale", "temporal_stride"):
        described["expression"].pop(name)
    path.write_text(json.dumps(described | {"expression_padding": "attended"}))
    model = tiny_transformer()
    load_adapter(model, tmp_path / "adapter")
    assert model.expression_config == replace(SIZES, padding="attended")
    absent = {"expression_dims": None, "expression_depth": 4, "expression_padding": "masked", "eps": 1e-6}
    assert upgrade_expression_keys(absent) == {"eps": 1e-6, "expression": None}


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"padding": "ignored"}, ErrorCode.invalid_choice, "expression.padding"),
        ({"scale": float("inf")}, ErrorCode.out_of_range, "expression.scale"),
        ({"heads": 0}, ErrorCode.out_of_range, "expression.heads"),
        ({"dims": [6, 6, 8]}, ErrorCode.invalid_type, "expression.dims"),
        ({"depth": 10**6}, ErrorCode.out_of_range, "expression.depth"),
        ({"witdh": 1}, ErrorCode.malformed_file, "expression"),
    ],
)
def test_an_adapter_with_impossible_sizes_is_rejected(tmp_path, change, code, field):
    save_adapter(
        expressive(), tmp_path / "adapter", AdapterConfig(["expression"], "seconds", expression=SIZES.to_dict())
    )
    path = tmp_path / "adapter" / "config.json"
    described = json.loads(path.read_text())
    described["expression"] |= change
    path.write_text(json.dumps(described))
    with raises_input_error(code, field):
        load_adapter(tiny_transformer(), tmp_path / "adapter")


def test_audio_reaches_its_own_speaker():
    model, plain = tiny_transformer(), tiny_conditions(batch=1, frames=FRAMES)
    both = join_speaker_windows([AudioWindows(plain.audio_embeds, plain.audio_mask)] * 2)
    pair = plain._replace(audio_embeds=both.tokens, audio_mask=both.mask, speaker_regions=columns(2))
    louder = pair.audio_embeds.clone()
    louder[:, :, 7:] += 1.0  # the second speaker's
    nobody = pair._replace(condition_scale=torch.tensor([[0.0, 1.0]]))
    before, after, silent = attended_by_tokens(model, pair, pair._replace(audio_embeds=louder), nobody)
    changed, effect = ((a - b).abs().amax(dim=(0, 1, 3)) for a, b in ((after, before), (before, silent)))
    assert changed[1] > 1e-3
    assert changed[[0, 2, 3]].max() == 0
    assert effect[:2].min() > 1e-4
    assert effect[2:].max() == 0, "audio changed background tokens"
    one = attended_by_tokens(model, plain)[0]
    torch.testing.assert_close(before[:, :, :2], one[:, :, :2], rtol=0, atol=1e-6)


def test_a_rank_uses_the_regions_of_its_own_tokens():
    """Half of three latent frames of 16 tokens: the second rank begins inside latent frame 1."""
    generator = torch.Generator().manual_seed(0)
    regions = torch.rand(1, 2, FRAMES, *GRID, generator=generator) < 0.5
    whole, half = LocalTokens(0, 48, 48), LocalTokens(24, 24, 48)
    for windows in (FRAMES, 1):
        real = torch.rand(1, windows, 6, generator=generator) < 0.8
        expected = build_windowed_attention(whole, whole.window_span(windows), real, regions).mask.flatten(1, 2)
        span = half.window_span(windows)
        mask = build_windowed_attention(half, span, real[:, span.window_slice], regions).mask.flatten(1, 2)
        assert torch.equal(mask[:, span.pad_front :], expected[:, 24:])
        assert not mask[:, : span.pad_front].any()


def spoilt(kind: str) -> Conditions:
    pair = driven(2)
    changes: dict[str, ExpressionCondition] = {
        "no regions": pair._replace(regions=None),
        "frames": pair._replace(features=pair.features[:, :, :-1]),
        "width": pair._replace(features=pair.features[..., :-1]),
        "people": pair._replace(regions=columns(3)),
        "dtype": pair._replace(features=pair.features.half()),
        "float mask": pair._replace(present=pair.present.float()),
        "scale": pair._replace(scale=torch.ones(1, 2)),
    }
    return conditions_with(changes[kind])


SPOILT = {
    "no regions": (ErrorCode.missing_value, "expression.regions"),
    "frames": (ErrorCode.shape_mismatch, "expression.features"),
    "width": (ErrorCode.shape_mismatch, "expression.features"),
    "people": (ErrorCode.shape_mismatch, "expression.regions"),
    "dtype": (ErrorCode.invalid_type, "expression.features"),
    "float mask": (ErrorCode.invalid_type, "expression.present"),
    "scale": (ErrorCode.shape_mismatch, "expression.scale"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_an_expression_that_does_not_fit_is_rejected(kind):
    code, field = SPOILT[kind]
    with raises_input_error(code, field):
        predict(expressive(), spoilt(kind))


def test_conditions_that_a_model_lacks_are_rejected():
    with raises_input_error(ErrorCode.not_trained, "expression"):
        predict(tiny_transformer(), conditions_with(driven()))
    with raises_input_error(ErrorCode.shape_mismatch, "audio_embeds", 7):
        predict(tiny_transformer(), tiny_conditions(batch=1, frames=FRAMES)._replace(speaker_regions=columns(2)))
    with raises_input_error(ErrorCode.shape_mismatch, "speakers", []):
        join_speaker_windows([])
