"""The plan of a generation: checks and defaults from a model's facts alone, without a model."""

from dataclasses import replace

import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.latent_geometry import WAN21_GEOMETRY
from fantasytalking.pipeline import GenerationControls, ModelFacts, plan_generation
from fantasytalking.pipeline.guidance import GuidanceConfig, GuidanceSchedule
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import DISTILLATION

FACTS = ModelFacts(
    ("audio", "face", "motion"), None, WAN21_GEOMETRY, has_face_encoder=True, has_expression_encoder=False
)


def test_defaults_are_resolved_for_the_model() -> None:
    plan = plan_generation(FACTS, GenerationControls(), has_audio=True)
    assert (plan.face_scale, plan.num_inference_steps) == (1.0, 30)
    assert (plan.window_length, plan.window_overlap, plan.geometry) == (21, 6, WAN21_GEOMETRY)
    plain = replace(FACTS, trained_modules=("audio",), has_face_encoder=False)
    assert plan_generation(plain, GenerationControls(), has_audio=True).face_scale == 0.0


def test_windows_follow_the_temporal_stride_of_the_vae() -> None:
    facts = replace(FACTS, geometry=replace(WAN21_GEOMETRY, temporal_stride=8))
    controls = GenerationControls(window_frames=41, overlap_frames=16)
    plan = plan_generation(facts, controls, has_audio=True)
    assert (plan.window_length, plan.window_overlap) == (6, 2)
    with raises_input_error(ErrorCode.out_of_range, "window_frames", 37):
        plan_generation(facts, replace(controls, window_frames=37), has_audio=True)


def test_a_distilled_model_sets_the_steps_and_checks_its_scheduler() -> None:
    facts, controls = replace(FACTS, distillation=DISTILLATION), GenerationControls()
    assert plan_generation(facts, controls, has_audio=True).num_inference_steps == DISTILLATION.windows
    with raises_input_error(ErrorCode.unsupported, "scheduler", "UniPCMultistepScheduler"):
        plan_generation(facts, controls, has_audio=True, scheduler=make_scheduler(SchedulerType.unipc))


@pytest.mark.parametrize(
    ("facts", "controls", "code", "field"),
    [
        ({"trained_modules": ("face",)}, {}, ErrorCode.not_trained, "audio"),
        ({"trained_modules": ("audio",)}, {"body_motion": 0.6}, ErrorCode.not_trained, "body_motion"),
        ({"trained_modules": ("audio",)}, {"face_scale": 0.5}, ErrorCode.not_trained, "face_scale"),
        ({"has_face_encoder": False}, {}, ErrorCode.missing_value, "face_encoder"),
        ({}, {"prompt": "x" * 5000}, ErrorCode.out_of_range, "prompt"),
        (
            {},
            {"guidance": GuidanceConfig(audio=GuidanceSchedule(5, 5, 2))},
            ErrorCode.out_of_range,
            "guidance.audio.stop",
        ),
    ],
)
def test_what_the_model_cannot_follow_is_refused(facts, controls, code, field) -> None:
    with raises_input_error(code, field):
        plan_generation(replace(FACTS, **facts), replace(GenerationControls(), **controls), has_audio=True)


def test_driving_videos_need_the_module_and_files_an_encoder() -> None:
    def plan(facts: ModelFacts, *, needs_encoder: bool) -> None:
        plan_generation(
            facts,
            GenerationControls(),
            has_audio=False,
            has_driving_video=True,
            needs_expression_encoder=needs_encoder,
        )

    with raises_input_error(ErrorCode.not_trained, "driving_video"):
        plan(FACTS, needs_encoder=False)
    driven = replace(FACTS, trained_modules=("audio", "expression"), has_face_encoder=False)
    plan(driven, needs_encoder=False)
    with raises_input_error(ErrorCode.missing_value, "expression_encoder"):
        plan(driven, needs_encoder=True)
