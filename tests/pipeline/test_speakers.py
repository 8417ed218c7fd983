"""Several people: whose sound and driver is whose, how long the video is, which part of the picture is theirs."""

import numpy as np
import pytest
import torch

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.audio_windows import AudioWindows
from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.audio_loading import audio_encoder_from_components
from fantasytalking.latent_geometry import WAN21_GEOMETRY
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.condition_encoder import ConditionEncoder
from fantasytalking.pipeline.speakers import Speakers, mix_audio
from fantasytalking.pipeline.timeline import Timeline
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import driving_expression, random_speech
from tests.pipeline.test_pipeline import latents


class Spy:
    """The conditions of the transformer's calls."""

    def __init__(self, transformer: FantasyTalkingTransformer3DModel) -> None:
        self.calls: list = []
        self.hook = transformer.register_forward_pre_hook(lambda _, given: self.calls.append(given[2]))

    def __enter__(self) -> "Spy":
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def encode_speakers(pipe: FantasyTalkingPipeline, speakers: Speakers, timeline: Timeline) -> AudioWindows:
    encoder = ConditionEncoder(
        text=None,  # type: ignore[arg-type]
        image=None,  # type: ignore[arg-type]
        vae=None,  # type: ignore[arg-type]
        audio=audio_encoder_from_components(pipe.audio_encoder, pipe.audio_processor),
        face_encoder_path=None,
        transformer_config=pipe.transformer.config,
        max_text_tokens=pipe.config.text_length,
        window_rule=pipe.config.audio_window,
        window_seconds=pipe.config.window_seconds,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return encoder.encode_speakers(speakers, timeline)


def turned(portrait):
    return portrait._replace(face_points=portrait.face_points[::-1].copy(), face_boxes=portrait.face_boxes[::-1].copy())


def test_one_sound_in_a_list_is_one_sound(pipe, portrait):
    assert torch.equal(
        latents(pipe, portrait, audio=[random_speech(0.5)]), latents(pipe, portrait, audio=random_speech(0.5))
    )


def test_the_video_is_as_long_as_the_longest_sound_and_the_shorter_is_silent_afterwards(couple, pipe):
    people = Speakers(couple, (random_speech(0.3), random_speech(0.7, seed=1)))
    timing = people.timeline(25, 4)
    assert timing.num_frames == round(0.7 * 25)
    heard = encode_speakers(pipe, people, timing)
    padded = Speakers(
        couple,
        (
            np.pad(random_speech(0.3), (0, len(random_speech(0.7)) - len(random_speech(0.3)))),
            random_speech(0.7, seed=1),
        ),
    )
    for part, same in zip(heard, encode_speakers(pipe, padded, timing), strict=True):
        assert torch.equal(part, same)
    alone = encode_speakers(
        pipe, Speakers(couple, (random_speech(0.3), np.zeros(len(random_speech(0.7)), np.float32))), timing
    )
    only = encode_speakers(pipe, Speakers(couple, (random_speech(0.3),)), timing)
    half = alone.tokens.shape[2] // 2
    assert torch.equal(alone.tokens[:, :, :half], heard.tokens[:, :, :half])
    assert torch.equal(alone.tokens, only.tokens), "a face without audio attends to silence"


def test_everyone_hears_their_own(pipe, couple):
    with Spy(pipe.transformer) as spy:
        latents(pipe, couple, audio=(random_speech(1.5), random_speech(1.5, seed=1)), num_inference_steps=1)
    assert len(spy.calls) > 2, "several windows"
    for call in spy.calls:
        first, second = call.speaker_regions[0]
        assert call.speaker_regions.shape == (1, 2, call.image_latents.shape[2], 2, 4)
        assert first[:, :, 0].all() and not first[:, :, 3].any()
        assert second[:, :, 3].all() and not second[:, :, 0].any()
        assert call.expression is None and call.face_embeds.shape == (1, 2, 512)


def test_the_order_of_the_people_means_nothing(pipe, driven, couple):
    one, two = random_speech(0.5), random_speech(0.5, seed=1)
    plain = latents(pipe, couple, audio=(one, two))
    torch.testing.assert_close(latents(pipe, turned(couple), audio=(two, one)), plain, atol=1e-4, rtol=1e-4)
    assert (latents(pipe, couple, audio=(two, one)) - plain).abs().max() > 1e-3
    drivers = (driving_expression(13), driving_expression(13, seed=1))
    plain = latents(driven, couple, audio=(one,), driving_video=drivers)
    other = latents(driven, turned(couple), audio=(np.zeros_like(one), one), driving_video=drivers[::-1])
    torch.testing.assert_close(other, plain, atol=1e-4, rtol=1e-4)
    assert (latents(driven, couple, audio=(one,), driving_video=drivers[::-1]) - plain).abs().max() > 1e-3


def test_regions_follow_faces_and_drivers(couple, portrait):
    people = Speakers(couple, (), (driving_expression(9), driving_expression(9)))
    tight = people.regions(WAN21_GEOMETRY, BackgroundAttention.nobody)
    assert tight is not None and tight.shape == (2, 1, 2, 4)
    moving = driving_expression(9)
    moving.boxes[4:] += 8
    wide = Speakers(couple, (), (moving, driving_expression(9))).regions(WAN21_GEOMETRY, BackgroundAttention.nobody)
    assert wide is not None and (wide[0] | ~tight[0]).all()
    assert Speakers(portrait).regions(WAN21_GEOMETRY, BackgroundAttention.everyone) is None
    alone = Speakers(portrait).regions(WAN21_GEOMETRY, BackgroundAttention.nobody)
    assert alone is not None and alone.shape == (1, 1, 2, 2)
    everyone = Speakers(couple).regions(WAN21_GEOMETRY, BackgroundAttention.everyone)
    assert everyone is not None and (everyone.any(dim=0)).all()


@pytest.mark.parametrize(("sounds", "drivers", "frames"), [((), (9, 13), 9), ((0.5,), (13,), 12), ((0.5,), (9,), 12)])
def test_lengths(couple, sounds, drivers, frames):
    people = Speakers(couple, tuple(map(random_speech, sounds)), tuple(map(driving_expression, drivers)))
    timing = people.timeline(25, 4)
    assert timing.num_frames == frames
    features, present = people.expression_features(timing.padded_frames)
    assert features.shape == (1, 2, timing.padded_frames, 11)
    given = people.driving_expressions[0]
    count = min(len(given.features), timing.padded_frames)
    assert torch.equal(features[0, 0, :count], given.features[:count])
    assert (features[0, 0, count:] == given.features[count - 1]).all() and present[0, 0, count:].all()
    assert present[0, 1].any() == (len(drivers) == 2)


@pytest.mark.parametrize(
    ("sounds", "drivers", "code", "field", "value"),
    [
        ((), (), ErrorCode.missing_value, "audio", None),
        ((1.0,), (13,), ErrorCode.conflict, "driving_video", "driving expression"),
        ((0.2, 0.2, 0.2), (), ErrorCode.conflict, "audio", 3),
        ((), (9, 9, 9), ErrorCode.conflict, "driving_video", 3),
    ],
)
def test_what_does_not_fit_together_is_refused(couple, sounds, drivers, code, field, value):
    with raises_input_error(code, field, value):
        Speakers(couple, tuple(map(random_speech, sounds)), tuple(map(driving_expression, drivers))).timeline(25, 4)


def test_sounds_are_mixed_without_clipping():
    one, two = np.full(10, 0.3, np.float32), np.full(20, 0.5, np.float32)
    assert mix_audio([one]) is one
    quiet = mix_audio([one, two])
    np.testing.assert_allclose(quiet, [0.8] * 10 + [0.5] * 10, atol=1e-6)
    loud = mix_audio([one * 3, two])
    assert np.abs(loud).max() == pytest.approx(1)
    np.testing.assert_allclose(loud / loud[0], [1] * 10 + [0.5 / 1.4] * 10, atol=1e-6)


class TestDriven:
    def test_an_undriven_video_is_the_same_bits(self, pipe, driven, portrait):
        assert driven.trained_modules == ["audio", "face", "motion", "expression"]
        assert torch.equal(latents(driven, portrait), latents(pipe, portrait))

    def test_the_driver_reaches_the_model(self, driven, portrait):
        plain = latents(driven, portrait, driving_video=driving_expression(12))
        unseen = driving_expression(12)._replace(present=torch.zeros(12, dtype=torch.bool))
        cases = {
            "driver": {"driving_video": driving_expression(12, seed=1)},
            "presence": {"driving_video": unseen},
            "nothing": {},
            "scale": {"expression_scale": 0.5},
            "guidance": {"expression_guidance_scale": 2.0},
        }
        for name, options in cases.items():
            given = options if name in ("nothing",) else {"driving_video": driving_expression(12), **options}
            assert (latents(driven, portrait, **given) - plain).abs().max() > 1e-4, name
        off = latents(
            driven, portrait, driving_video=driving_expression(12), expression_scale=0.0, expression_guidance_scale=1.0
        )
        torch.testing.assert_close(off, latents(driven, portrait), atol=1e-5, rtol=1e-5)

    def test_a_frame_in_which_the_face_is_not_seen_does_not_matter(self, driven, portrait):
        other = driving_expression(12)
        other.features[2] += 5
        made = latents(driven, portrait, driving_video=other)
        assert torch.equal(made, latents(driven, portrait, driving_video=driving_expression(12)))

    def test_without_sound_the_driver_tells_the_length_and_nothing_is_heard(self, driven, portrait):
        with Spy(driven.transformer) as spy:
            made = latents(driven, portrait, audio=None, driving_video=driving_expression(13), text_guidance_scale=1.0)
        assert made.shape[2] == 4 and made.isfinite().all()
        (steps,) = {len(spy.calls)}
        assert steps == 2 and all(
            call.condition_scale.shape == (2, 2) and not call.condition_scale[:, 0].any() for call in spy.calls
        )
        assert all(not call.audio_mask.any() for call in spy.calls)
        assert spy.calls[0].expression.scale.tolist() == [0.0, 1.0]

    @pytest.mark.parametrize("seconds", [0.5, 1.5])
    def test_branches_in_one_call_equal_branches_in_turn(self, driven, portrait, seconds):
        options = {
            "seconds": seconds,
            "text_guidance_scale": 4.0,
            "audio_guidance_scale": 6.0,
            "driving_video": driving_expression(40),
        }
        in_turn = latents(driven, portrait, batch_branches=False, **options)
        assert (latents(driven, portrait, batch_branches=True, **options) - in_turn).abs().max() < 1e-5

    def test_every_window_has_its_own_frames_of_the_driver(self, driven, portrait):
        given = driving_expression(45)
        with Spy(driven.transformer) as spy:
            latents(driven, portrait, audio=None, driving_video=given, num_inference_steps=1)
        seen = [call.expression.features[0, 0] for call in spy.calls]
        assert len(seen) > 2 and all(len(features) == 17 for features in seen)
        starts = set()
        for features in seen:
            assert torch.equal(features[0], given.features[0])
            (start,) = (number for number in range(1, 30) if torch.equal(given.features[number], features[1]))
            assert start % 4 == 1 and torch.equal(features[1:], given.features[start : start + 16])
            starts.add(start)
        assert {1, 29} <= starts

    def test_who_is_not_driven_has_nothing_present(self, driven, couple):
        with Spy(driven.transformer) as spy:
            latents(driven, couple, audio=None, driving_video=driving_expression(13), num_inference_steps=1)
        for call in spy.calls:
            assert call.expression.present[0, 0].sum() == 12 and not call.expression.present[0, 1].any()
            assert call.expression.regions.shape == (1, 2, 4, 2, 4) and call.speaker_regions is None

    def test_what_cannot_be_driven_is_refused(self, pipe, driven, portrait, tmp_path):
        with raises_input_error(ErrorCode.not_trained, "driving_video"):
            latents(pipe, portrait, driving_video=driving_expression(13))
        narrow = driving_expression(13)._replace(features=torch.zeros(13, 5))
        with raises_input_error(ErrorCode.shape_mismatch, "driving_video", 5):
            latents(driven, portrait, driving_video=narrow)
        with raises_input_error(ErrorCode.out_of_range, "expression_scale", 11.0):
            latents(driven, portrait, driving_video=driving_expression(13), expression_scale=11.0)

    def test_what_is_held_does_not_grow_with_the_length(self, driven, portrait):
        held = []
        for frames in (37, 120):
            caches: list = []
            hook = driven.transformer.register_forward_pre_hook(
                lambda _, given, named, caches=caches: caches.append(named["cache"]), with_kwargs=True
            )
            latents(driven, portrait, audio=None, driving_video=driving_expression(frames), num_inference_steps=1)
            hook.remove()
            held.append(caches[-1].nbytes())
        assert held[0] == held[1] > 0

    def test_a_distilled_model_is_driven_in_one_call_a_step(self, saved, fast, expressive, portrait):
        distilled = FantasyTalkingPipeline.from_pretrained(saved, adapter=fast, expression_adapter=expressive)
        distilled.set_progress_bar_config(disable=True)
        options = {"driving_video": driving_expression(12), "num_inference_steps": None}
        with raises_input_error(ErrorCode.unsupported, "guidance.expression.scale_start", 4.5):
            latents(distilled, portrait, **options)
        with Spy(distilled.transformer) as spy:
            made = latents(distilled, portrait, expression_guidance_scale=1.0, **options)
        assert [call.expression.scale.tolist() for call in spy.calls] == [[1.0]] * 4
        assert (latents(distilled, portrait, num_inference_steps=None) - made).abs().max() > 1e-4

    def test_it_is_saved_whole(self, driven, portrait, tmp_path):
        driven.save_pretrained(tmp_path)
        again = FantasyTalkingPipeline.from_pretrained(tmp_path)
        again.set_progress_bar_config(disable=True)
        assert again.trained_modules == driven.trained_modules
        assert again.expression_encoder_path == tmp_path / "expression_encoder"
        assert torch.equal(
            latents(again, portrait, driving_video=driving_expression(13)),
            latents(driven, portrait, driving_video=driving_expression(13)),
        )


def test_silence_is_masked_for_several_people_too(driven, couple):
    people = Speakers(couple, (), (driving_expression(9),))
    heard = encode_speakers(driven, people, people.timeline(25, 4))
    assert isinstance(heard, AudioWindows) and heard.tokens.shape[1] == 3 and not heard.mask.any()
