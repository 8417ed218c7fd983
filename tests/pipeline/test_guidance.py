"""The two formulas by hand, schedules, branches that need not be computed, colour kept."""

import pytest
import torch

from fantasytalking.common.errors import ErrorCode
from fantasytalking.pipeline.guidance import (
    AvailableConditions,
    CfgOrder,
    GuidanceBranch,
    GuidanceConfig,
    GuidanceSchedule,
    active_branch_weights,
    guidance_at_step,
    rescale_color,
)
from tests.helpers.errors import raises_input_error

NONE, TEXT, AUDIO, BOTH = (
    GuidanceBranch(False, False),
    GuidanceBranch(True, False),
    GuidanceBranch(False, True),
    GuidanceBranch(True, True),
)
ALL, SEEN = GuidanceBranch(True, True, ("expression",)), GuidanceBranch(True, False, ("expression",))
DRIVEN = ("expression",)


@pytest.fixture
def e() -> dict[GuidanceBranch, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {branch: torch.randn(1, 4, 3, 8, 8, generator=generator) for branch in (NONE, TEXT, AUDIO, BOTH, ALL, SEEN)}


def config(text: float, audio: float, **changes: object) -> GuidanceConfig:
    return GuidanceConfig(GuidanceSchedule(text, text), GuidanceSchedule(audio, audio), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "audio"), [(5.0, 5.0), (4.0, 6.0), (1.0, 3.0), (3.0, 1.0), (0.0, 2.0), (2.0, 0.0)])
def test_the_formulas_by_hand(e, text, audio):
    released = guidance_at_step(config(text, audio), 0, 10)
    expected = e[NONE] + text * (e[TEXT] - e[NONE]) + audio * (e[BOTH] - e[TEXT])
    torch.testing.assert_close(released.combine(e), expected, atol=2e-5, rtol=1e-5)
    other = guidance_at_step(config(text, audio, order=CfgOrder.audio_first), 0, 10)
    expected = e[NONE] + text * (e[BOTH] - e[AUDIO]) + audio * (e[AUDIO] - e[NONE])
    torch.testing.assert_close(other.combine(e), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("formula", "text", "audio", "branches"),
    [
        (CfgOrder.text_first, 4, 6, {NONE, TEXT, BOTH}),
        (CfgOrder.text_first, 5, 5, {NONE, BOTH}),
        (CfgOrder.text_first, 1, 1, {BOTH}),
        (CfgOrder.text_first, 0, 0, {NONE}),
        (CfgOrder.text_first, 1, 5, {TEXT, BOTH}),
        (CfgOrder.text_first, 5, 0, {NONE, TEXT}),
        (CfgOrder.audio_first, 4, 6, {NONE, AUDIO, BOTH}),
        (CfgOrder.audio_first, 0, 6, {NONE, AUDIO}),
        (CfgOrder.audio_first, 5, 1, {AUDIO, BOTH}),
    ],
)
def test_only_what_counts_is_computed(formula, text, audio, branches):
    weights = active_branch_weights(formula, text, audio)
    assert set(weights) == branches
    assert sum(weights.values()) == pytest.approx(1)


def test_prompts_that_are_alike_leave_the_audio_alone(e):
    e = {**e, TEXT: e[NONE], BOTH: e[AUDIO]}
    for order in CfgOrder:
        step = guidance_at_step(config(5, 3, order=order), 0, 10, AvailableConditions(prompt=False))
        assert step.branches == [NONE, AUDIO]
        expected = e[NONE] + 3 * (e[AUDIO] - e[NONE])
        torch.testing.assert_close(step.combine(e), expected, atol=1e-5, rtol=1e-5)


def driven(text: float, audio: float, expression: float, **changes: object) -> GuidanceConfig:
    return config(text, audio, expression=GuidanceSchedule(expression, expression), **changes)


@pytest.mark.parametrize(("text", "expression"), [(5.0, 4.5), (1.0, 4.0), (3.0, 1.0), (1.0, 1.0), (0.3, 0.1)])
def test_expression_guidance_without_sound_by_hand(e, text, expression):
    """FantasyPortrait's own: v_neg + s_text (v_noexpr - v_neg) + s_expr (v_full - v_noexpr)."""
    told = AvailableConditions(audio=False, further=DRIVEN)
    for order in CfgOrder:
        step = guidance_at_step(driven(text, 7.3, expression, order=order), 0, 10, told)
        expected = e[NONE] + text * (e[TEXT] - e[NONE]) + expression * (e[SEEN] - e[TEXT])
        torch.testing.assert_close(step.combine(e), expected, atol=2e-5, rtol=1e-5)
        used = {NONE: text != 1, TEXT: text != expression, SEEN: True}
        assert set(step.branches) == {branch for branch, counts in used.items() if counts}


@pytest.mark.parametrize(("text", "audio", "expression"), [(4.0, 6.0, 3.0), (1.0, 1.0, 1.0), (5.0, 5.0, 5.0)])
def test_text_audio_and_expression_by_hand(e, text, audio, expression):
    step = guidance_at_step(driven(text, audio, expression), 0, 10, AvailableConditions(further=DRIVEN))
    expected = e[NONE] + text * (e[TEXT] - e[NONE]) + audio * (e[BOTH] - e[TEXT]) + expression * (e[ALL] - e[BOTH])
    torch.testing.assert_close(step.combine(e), expected, atol=2e-5, rtol=1e-5)
    assert len(step.branches) == (4 if text != audio else 1 if text == 1 else 2)


def test_expression_guidance_has_its_own_schedule_and_is_not_read_without_one(e):
    guidance = config(1, 1, expression=GuidanceSchedule(6, 4, 0.5))
    told = AvailableConditions(further=DRIVEN)
    assert [guidance_at_step(guidance, step, 4, told).weights for step in range(4)] == [
        {BOTH: -5, ALL: 6},
        {BOTH: -3, ALL: 4},
        {ALL: 1},
        {ALL: 1},
    ]
    assert [guidance_at_step(guidance, step, 4).weights for step in range(4)] == [{BOTH: 1}] * 4


def test_every_branch_has_a_name_of_its_own():
    branches = [
        GuidanceBranch(text, audio, further)
        for text in (False, True)
        for audio in (False, True)
        for further in ((), DRIVEN, ("gesture",), (*DRIVEN, "gesture"))
    ]
    assert len({branch.label for branch in branches}) == len(branches)


def test_schedules_run_over_their_share_and_then_end():
    schedule = GuidanceSchedule(6.0, 3.0, 0.7)
    scales = [schedule.scale_at(step, 10) for step in range(10)]
    assert scales == pytest.approx([6, 5.5, 5, 4.5, 4, 3.5, 3, 1, 1, 1])
    assert [GuidanceSchedule(5, 5, 0.0).scale_at(step, 4) for step in range(4)] == [1, 1, 1, 1]
    assert [GuidanceSchedule(7, 2, 1.0).scale_at(step, 1) for step in range(1)] == [7]
    assert GuidanceSchedule.from_scale(4.5).scale_at(29, 30) == 4.5


def test_a_schedule_changes_what_is_computed():
    audio = GuidanceSchedule(5, 5, 0.5)
    guidance = GuidanceConfig(GuidanceSchedule(1, 1), audio)
    assert [len(guidance_at_step(guidance, step, 4).branches) for step in range(4)] == [2, 2, 1, 1]


def test_colour_is_kept_and_pictures_are_not(e):
    guided = 5 * e[BOTH] + torch.tensor([2.0, -1.0, 0.0, 0.5]).view(1, 4, 1, 1, 1)  # tinted and too contrasty
    kept = rescale_color(guided, e[BOTH], 1.0)
    for frame in range(3):
        torch.testing.assert_close(kept[:, :, frame].mean((-2, -1)), e[BOTH][:, :, frame].mean((-2, -1)))
        torch.testing.assert_close(kept[:, :, frame].std((-2, -1)), e[BOTH][:, :, frame].std((-2, -1)))
    torch.testing.assert_close(kept, e[BOTH], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rescale_color(guided, e[BOTH], 0.25), 0.75 * guided + 0.25 * kept)


def test_colour_is_kept_against_the_same_step_without_audio_guidance(e):
    step = guidance_at_step(config(4, 6, color_rescale=1.0), 0, 10)
    reference = e[NONE] + 4 * (e[TEXT] - e[NONE]) + (e[BOTH] - e[TEXT])
    assert step.branches == [NONE, TEXT, BOTH]
    torch.testing.assert_close(step.combine(e).mean((-2, -1)), reference.mean((-2, -1)), atol=1e-5, rtol=1e-5)
    without = guidance_at_step(config(4, 1, color_rescale=1.0), 0, 10)
    assert not without.color_reference, "without audio guidance there is nothing to keep"
    seen = guidance_at_step(driven(4, 6, 3, color_rescale=1.0), 0, 10, AvailableConditions(further=DRIVEN))
    assert seen.color_reference == {NONE: -3, TEXT: 3, ALL: 1}


@pytest.mark.parametrize(
    "wrong",
    [GuidanceSchedule(-1, 5), GuidanceSchedule(5, 101), GuidanceSchedule(float("nan"), 5), GuidanceSchedule(5, 5, 1.5)],
)
def test_scales_outside_their_limits_are_refused(wrong):
    with raises_input_error(ErrorCode.out_of_range):
        wrong.check("guidance.text.")
