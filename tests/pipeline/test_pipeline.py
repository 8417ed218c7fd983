"""The pipeline: lengths, kinds of output, repeatability, saving, offloading, controls that were never trained."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, UniPCMultistepScheduler
from PIL import Image

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.checkpoints.lora import LoraSpec, add_lora
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.face_range import face_ranges_from_dict
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import (
    CfgOrder,
    FantasyTalkingPipeline,
    GenerationControls,
    GuidanceSchedule,
    Portrait,
)
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler, set_timesteps
from fantasytalking.pipeline.timeline import Timeline
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import FACE_RANGES, SIZE, WITHOUT_AUDIO_POSITIONS, load_tiny_pipeline, random_speech


def make(pipe: FantasyTalkingPipeline, portrait: Portrait, seconds: float = 0.5, seed: int = 0, **options):
    given = {"prompt": "hello", "num_inference_steps": 2, "window_frames": 17, "overlap_frames": 8, **options}
    given.setdefault("generator", torch.Generator().manual_seed(seed))
    return pipe(
        portrait, options.pop("audio", random_speech(seconds)), **{k: v for k, v in given.items() if k != "audio"}
    )


def latents(pipe: FantasyTalkingPipeline, portrait: Portrait, **options) -> torch.Tensor:
    return make(pipe, portrait, output_type="latent", **options).frames


@pytest.mark.parametrize(
    ("seconds", "fps"),
    [
        (0.04, 25),
        (0.2, 25),
        (0.68, 25),
        (0.69, 25),
        (1.7, 25),
        (0.7, 23),
        (0.7, 16),
        (0.7, 29.97),
        (0.4, 60),
        (0.5, 12.5),
    ],
)
def test_the_video_is_as_long_as_the_sound(pipe, portrait, seconds, fps):
    made = make(pipe, portrait, seconds, fps=fps, output_type="latent", num_inference_steps=1)
    assert abs(made.num_frames / fps - seconds) <= 0.5 / fps + 1e-4
    latent_frames = made.frames.shape[2]
    assert made.frames.shape == (1, 16, latent_frames, SIZE // 8, SIZE // 8)
    assert 1 + 4 * (latent_frames - 2) < max(made.num_frames, 2) <= 1 + 4 * (latent_frames - 1)
    assert len(list(pipe.iterate_frames(made.frames, made.num_frames))) == made.num_frames


def test_timing_at_any_rate():
    for fps in (1, 8, 15, 16, 23, 23.976, 24, 25, 29.97, 30, 50, 60, 120):
        for samples in (1, 400, 16000, 16001, 48123, 160000):
            timing = Timeline.from_samples(samples, fps, 4)
            assert abs(timing.num_frames / fps - samples / 16000) <= 1 / fps
            assert timing.num_frames <= timing.padded_frames and timing.padded_frames % 4 == 1


def test_output_types_agree(pipe, portrait):
    array = make(pipe, portrait, output_type="np").frames
    tensor = make(pipe, portrait, output_type="pt").frames
    (pictures,) = make(pipe, portrait, output_type="pil").frames
    assert array.shape == (1, 12, SIZE, SIZE, 3) and tensor.shape == (1, 12, 3, SIZE, SIZE)
    assert array.min() >= 0 and array.max() <= 1
    np.testing.assert_array_equal(array[0].transpose(0, 3, 1, 2), tensor[0].numpy())
    assert len(pictures) == 12 and isinstance(pictures[0], Image.Image)
    np.testing.assert_array_equal(np.asarray(pictures[5]), np.round(array[0, 5] * 255).astype(np.uint8))
    made = make(pipe, portrait, output_type="latent")
    streamed = np.stack(list(pipe.iterate_frames(made.frames, made.num_frames)))
    np.testing.assert_array_equal(streamed, np.round(array[0] * 255).astype(np.uint8))


def test_decoding_in_turn_equals_decoding_whole(pipe):
    from fantasytalking.encoders.wan import VideoAutoencoder

    coded = torch.randn(1, 16, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    autoencoder = VideoAutoencoder(pipe.vae)
    pieces = list(autoencoder.iter_decode(coded))
    assert [piece.shape[1] for piece in pieces] == [1, 4, 4, 4, 4]
    torch.testing.assert_close(torch.cat(pieces, dim=1), autoencoder.decode(coded)[0], atol=1e-6, rtol=0)
    pipe.vae.enable_tiling()
    tiled = torch.cat(list(autoencoder.iter_decode(coded)), dim=1)
    pipe.vae.disable_tiling()
    torch.testing.assert_close(tiled, torch.cat(pieces, dim=1), atol=1e-6, rtol=0)


def test_same_seed_same_bits_other_seed_other_video(pipe, portrait):
    first = latents(pipe, portrait)
    assert torch.equal(first, latents(pipe, portrait))
    assert not torch.equal(first, latents(pipe, portrait, seed=1))


def test_everything_told_reaches_the_model(pipe, portrait):
    """No option is deaf: each changes what comes out."""
    plain = latents(pipe, portrait)
    other = portrait._replace(face_points=portrait.face_points + 5)
    mirrored = portrait._replace(pixels=np.ascontiguousarray(portrait.pixels[:, ::-1]))
    cases = {
        "prompt": {"prompt": "goodbye"},
        "negative_prompt": {"negative_prompt": "still"},
        "expression": {"expression_motion": 0.9},
        "body": {"body_motion": 0.1},
        "face": {"face_scale": 0.0},
        "sound": {"audio": random_speech(0.5, seed=1)},
        "text guidance": {"text_guidance_scale": 3.0},
        "audio guidance": {"audio_guidance_scale": 3.0},
        "schedule": {"audio_guidance_scale": GuidanceSchedule(5, 5, 0.5)},
        "order": {"guidance_order": CfgOrder.audio_first, "text_guidance_scale": 4.0},
        "color": {"color_rescale": 1.0},
        "steps": {"num_inference_steps": 3},
        "rate": {"fps": 24.0},
    }
    for name, options in cases.items():
        changed = latents(pipe, portrait, **options)
        assert changed.shape == plain.shape and (changed - plain).abs().max() > 1e-4, name
    assert (latents(pipe, other) - plain).abs().max() > 1e-4, "identity"
    assert (latents(pipe, mirrored) - plain).abs().max() > 1e-3, "first frame"


@pytest.mark.parametrize("seconds", [0.5, 1.5])
@pytest.mark.parametrize("order", list(CfgOrder))
def test_branches_in_one_call_equal_branches_in_turn(pipe, portrait, seconds, order):
    options = {"seconds": seconds, "text_guidance_scale": 4.0, "audio_guidance_scale": 6.0, "guidance_order": order}
    in_turn = latents(pipe, portrait, batch_branches=False, **options)
    assert (latents(pipe, portrait, batch_branches=True, **options) - in_turn).abs().max() < 1e-5


def count_samples(pipe: FantasyTalkingPipeline, portrait: Portrait, **options) -> list[int]:
    """Samples that each of the transformer's calls predicts."""
    sizes: list[int] = []
    hook = pipe.transformer.register_forward_hook(lambda module, given, made: sizes.append(made[0].shape[0]))
    try:
        latents(pipe, portrait, **{"batch_branches": False, **options})
    finally:
        hook.remove()
    return sizes


def test_branches_that_do_not_count_are_not_computed(pipe, portrait):
    assert count_samples(pipe, portrait, text_guidance_scale=4.0, audio_guidance_scale=6.0) == [1] * 6
    assert count_samples(pipe, portrait, text_guidance_scale=4.0, audio_guidance_scale=6.0, batch_branches=True) == [
        3,
        3,
    ]
    assert count_samples(pipe, portrait, text_guidance_scale=4.0, audio_guidance_scale=6.0, batch_branches=None) == [
        3,
        3,
    ]
    assert count_samples(pipe, portrait, text_guidance_scale=5.0, audio_guidance_scale=5.0) == [1] * 4
    assert count_samples(pipe, portrait, text_guidance_scale=1.0, audio_guidance_scale=1.0) == [1, 1]
    assert count_samples(pipe, portrait, prompt="", text_guidance_scale=4.0, audio_guidance_scale=6.0) == [1] * 4
    scheduled = GuidanceSchedule(6, 6, 0.5)
    assert count_samples(pipe, portrait, text_guidance_scale=1.0, audio_guidance_scale=scheduled) == [1, 1, 1]


@pytest.mark.parametrize(("batched", "texts"), [(False, 2), (True, 1)])
def test_what_is_constant_is_computed_once(pipe, portrait, batched, texts):
    projected: list[int] = []
    hooks = [
        pipe.transformer.face_resampler.register_forward_hook(lambda *_: projected.append(0)),
        pipe.transformer.condition_embedder.text_embedder.register_forward_hook(lambda *_: projected.append(1)),
        pipe.transformer.audio_projector.register_forward_hook(lambda *_: projected.append(2)),
    ]
    try:
        scales = {"text_guidance_scale": 4.0, "audio_guidance_scale": 6.0}
        latents(pipe, portrait, num_inference_steps=4, batch_branches=batched, **scales)
    finally:
        for hook in hooks:
            hook.remove()
    assert [projected.count(kind) for kind in (0, 1, 2)] == [1, texts, 1]


def test_the_audio_is_gated_not_zeroed(pipe, portrait):
    """Without audio guidance and audio, other sounds make no difference; zeroed sound would."""
    options = {"audio_guidance_scale": 0.0, "text_guidance_scale": 1.0}
    first = latents(pipe, portrait, audio=random_speech(0.5), **options)
    assert torch.equal(first, latents(pipe, portrait, audio=random_speech(0.5, seed=3), **options))
    assert not torch.equal(latents(pipe, portrait, audio=np.zeros(8000, np.float32), text_guidance_scale=1.0), first)


def test_an_empty_prompt_is_what_training_drops_to(pipe, caplog):
    from fantasytalking.encoders.wan import TextEncoder
    from fantasytalking.pipeline.prompts import encode_text

    encoder = TextEncoder(pipe.text_encoder, pipe.tokenizer, 12)
    assert not encode_text(encoder, "  ", 12, 32).any()
    states = encode_text(encoder, "hi", 12, 32)
    assert not caplog.records
    encode_text(encoder, "a prompt of more than twelve bytes", 12, 32)
    assert "has 35 tokens; the model reads the first 12" in caplog.text
    assert states.shape == (1, 12, 32) and states[0, :3].any() and not states[0, 3:].any()


def test_a_callback_sees_every_step_and_may_change_the_latents(pipe, portrait):
    seen: list[tuple[int, float]] = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    assert not latents(pipe, portrait, callback_on_step_end=callback).any()
    assert [step for step, _ in seen] == [0, 1] and seen[0][1] == pytest.approx(1000)


def test_a_callback_may_interrupt(pipe, portrait):
    steps: list[int] = []

    def callback(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = True
        return {}

    latents(pipe, portrait, num_inference_steps=5, callback_on_step_end=callback)
    assert steps == [0]


def test_released_noise_levels():
    """sigma = 5 x / (1 + 4 x) for x = 1, 1 - 1/n, ...: the shift acts once."""
    timesteps = set_timesteps(make_scheduler(SchedulerType.euler, 5.0), 30, torch.device("cpu"))
    x = 1 - torch.arange(30) / 30
    torch.testing.assert_close(timesteps, 1000 * 5 * x / (1 + 4 * x), atol=1e-2, rtol=1e-5)


def test_the_other_sampler_works(base, adapters, portrait, pipe):
    other = load_tiny_pipeline(base, adapters / "all")
    other.scheduler = make_scheduler(SchedulerType.unipc, 5.0)
    assert isinstance(other.scheduler, UniPCMultistepScheduler)
    exact = latents(pipe, portrait, num_inference_steps=150)
    errors = [(latents(other, portrait, num_inference_steps=steps) - exact).square().mean() for steps in (5, 75)]
    assert errors[1] < errors[0] / 5 and errors[1] < 1e-3 * exact.square().mean(), "both follow the same flow"


def test_a_saved_pipeline_is_the_same(pipe, saved, portrait):
    again = FantasyTalkingPipeline.from_pretrained(saved)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(latents(again, portrait), latents(pipe, portrait))
    assert again.trained_modules == ["audio", "face", "motion"] and again.config.text_length == 12
    assert again.motion_normalizer == pipe.motion_normalizer is not None
    assert again.facts.face_ranges == pipe.facts.face_ranges == face_ranges_from_dict(FACE_RANGES, "a test") != {}
    assert again.face_encoder_path is not None and again.face_encoder_path.parent == saved / "face_encoder"
    assert json.loads((saved / "model_index.json").read_text())["_class_name"] == "FantasyTalkingPipeline"


def test_an_adapter_with_a_lora(base, tmp_path, portrait):
    """It works as it is, and is saved once it is fused."""
    settings = LoraSpec(2, 4.0, ("attn1.to_q", "ffn.net.2"))
    model = load_from_wan(base, asdict(load_model_config("nano").portrait))
    add_lora(model, settings, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    save_adapter(model, tmp_path / "lora", AdapterConfig(["audio"], "seconds", lora=settings.to_dict()))
    pipeline = load_tiny_pipeline(base, tmp_path / "lora")
    made = latents(pipeline, portrait)
    with raises_input_error(ErrorCode.unsupported, "transformer"):
        pipeline.save_pretrained(tmp_path / "saved")
    pipeline.transformer.fuse_lora()
    pipeline.transformer.unload_lora()
    pipeline.save_pretrained(tmp_path / "saved")
    again = FantasyTalkingPipeline.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(latents(again, portrait), made, atol=1e-4, rtol=1e-4)


def test_a_pipeline_of_the_hub_s_cache(saved, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--somebody--talker" / "snapshots" / "abc"
    shutil.copytree(saved, snapshot)
    (tmp_path / "models--somebody--talker" / "refs").mkdir()
    (tmp_path / "models--somebody--talker" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert FantasyTalkingPipeline.from_pretrained("somebody/talker").face_encoder_path is not None
    config = load_config(InferConfig, preset_path("nano", "infer"), ["base=somebody/talker", "adapter=null"])
    assert resolve_model(config).stored.base == snapshot
    for name in ("somebody/else", "nowhere"):
        with pytest.raises(InputError) as error:
            FantasyTalkingPipeline.from_pretrained(name)
        assert (error.value.field, error.value.value) == ("pipeline", name)


def test_ready_parts_are_taken(pipe, saved):
    again = FantasyTalkingPipeline.from_pretrained(saved, transformer=pipe.transformer)
    assert again.transformer is pipe.transformer and again.vae is not pipe.vae


def test_it_moves_and_changes_its_type(base, adapters, portrait):
    other = load_tiny_pipeline(base, adapters / "all").to("cpu")
    other.transformer.to(torch.bfloat16)
    made = latents(other, portrait)
    assert made.dtype == torch.float32 and made.isfinite().all()


def test_group_offloading_changes_nothing(base, adapters, portrait, pipe):
    other = load_tiny_pipeline(base, adapters / "all")
    other.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    torch.testing.assert_close(latents(other, portrait), latents(pipe, portrait), atol=1e-5, rtol=1e-5)


def test_model_offloading_changes_nothing(base, adapters, portrait, pipe):
    other = load_tiny_pipeline(base, adapters / "all")
    other.enable_model_cpu_offload(device="cpu")
    made = make(other, portrait, output_type="pt").frames
    torch.testing.assert_close(made, make(pipe, portrait, output_type="pt").frames, atol=1e-5, rtol=1e-5)


def test_step_caches_keep_windows_and_branches_apart(base, adapters, portrait, pipe):
    """At a threshold of 0 nothing is ever reused, so a context that mixed things up would show."""
    other = load_tiny_pipeline(base, adapters / "all")
    other.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    options = {"seconds": 1.5, "num_inference_steps": 3, "text_guidance_scale": 4.0, "audio_guidance_scale": 6.0}
    torch.testing.assert_close(latents(other, portrait, **options), latents(pipe, portrait, **options))


@pytest.fixture(scope="module")
def heard(base: Path, adapters: Path) -> FantasyTalkingPipeline:
    """Audio alone was trained, and there is no face encoder."""
    pipeline = load_tiny_pipeline(base, adapters / "released", module_config=WITHOUT_AUDIO_POSITIONS)
    pipeline.face_encoder_path = None
    return pipeline


class TestNeverTrained:
    def test_neutral_works(self, heard, portrait):
        assert latents(heard, portrait).isfinite().all()
        assert heard.config.audio_window == "official"

    @pytest.mark.parametrize("option", ["motion", "expression_motion", "body_motion"])
    def test_motion_is_refused(self, heard, portrait, option):
        field = "expression_motion" if option == "motion" else option
        with raises_input_error(ErrorCode.not_trained, field, 0.6):
            make(heard, portrait, **{option: 0.6})

    def test_face_is_refused(self, heard, portrait):
        with raises_input_error(ErrorCode.not_trained, "face_scale", 1.0):
            make(heard, portrait, face_scale=1.0)

    def test_identity_is_not_even_read(self, heard, portrait):
        other = portrait._replace(face_points=portrait.face_points + 5)
        assert torch.equal(latents(heard, portrait), latents(heard, other))


@pytest.mark.parametrize(
    ("options", "code", "field", "value"),
    [
        ({"motion": 1.5}, ErrorCode.out_of_range, "expression_motion", 1.5),
        ({"body_motion": -0.1}, ErrorCode.out_of_range, "body_motion", -0.1),
        ({"face_scale": 11.0}, ErrorCode.out_of_range, "face_scale", 11.0),
        ({"text_guidance_scale": -1.0}, ErrorCode.out_of_range, "guidance.text.scale_start", -1.0),
        ({"audio_guidance_scale": 101.0}, ErrorCode.out_of_range, "guidance.audio.scale_start", 101.0),
        ({"color_rescale": 2.0}, ErrorCode.out_of_range, "guidance.color_rescale", 2.0),
        ({"num_inference_steps": 0}, ErrorCode.out_of_range, "num_inference_steps", 0),
        ({"num_inference_steps": 1001}, ErrorCode.out_of_range, "num_inference_steps", 1001),
        ({"fps": 0.0}, ErrorCode.out_of_range, "fps", 0.0),
        ({"fps": 500.0}, ErrorCode.out_of_range, "fps", 500.0),
        ({"window_frames": 16}, ErrorCode.out_of_range, "window_frames", 16),
        ({"overlap_frames": 3}, ErrorCode.out_of_range, "overlap_frames", 3),
        ({"overlap_frames": 12}, ErrorCode.out_of_range, "overlap_frames", 3),
        ({"output_type": "gif"}, ErrorCode.invalid_choice, "output_type", "gif"),
        ({"height": 64, "width": 64}, ErrorCode.conflict, "height", 64),
        ({"audio": np.zeros(0, np.float32)}, ErrorCode.out_of_range, "audio", 0.0),
    ],
)
def test_wrong_arguments_are_refused(pipe, portrait, options, code, field, value):
    with raises_input_error(code, field, value) as error:
        make(pipe, portrait, **options)
    assert "\n" not in str(error.value) and str(value) in str(error.value)


def test_a_scale_that_is_not_a_number_is_refused(pipe, portrait):
    with raises_input_error(ErrorCode.out_of_range, "guidance.audio.scale_start"):
        make(pipe, portrait, audio_guidance_scale=float("nan"))


def test_a_video_that_is_not_finite_is_never_shown(pipe, portrait):
    weight, bias = pipe.transformer.proj_out.weight, pipe.vae.decoder.conv_out.bias
    cases = [(weight, torch.nan, "latents"), (bias, torch.nan, "pixels"), (bias, torch.inf, "pixels")]
    for parameter, value, what in cases:
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.fill_(value)
        try:
            for output_type in ("np", "pil") if what == "pixels" else ("np", "latent"):
                with raises_input_error(ErrorCode.out_of_range, what):
                    make(pipe, portrait, seconds=0.2, output_type=output_type)
            samples = AudioSampleQueue([random_speech(0.3)])
            controls = GenerationControls(num_inference_steps=1, window_frames=17, overlap_frames=8)
            with raises_input_error(ErrorCode.out_of_range, what):
                list(pipe.stream(portrait, samples, controls))
        finally:
            with torch.no_grad():
                parameter.copy_(kept)


@pytest.mark.parametrize(
    ("file", "values", "field"),
    [
        ("scheduler/scheduler_config.json", {"shift": 0}, "shift"),
        ("scheduler/scheduler_config.json", {"shift": float("nan")}, "shift"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "scheduler"),
        ("scheduler/scheduler_config.json", {"shift_terminal": "x"}, "scheduler"),
        ("transformer/config.json", {"num_layers": 10**9}, "num_layers"),
        ("transformer/config.json", {"rope_max_seq_len": 10**6}, "rope_max_seq_len"),
        ("transformer/config.json", {"patch_size": [1, 0, 2]}, "patch_size"),
        ("transformer/config.json", {"ffn_dim": "64"}, "ffn_dim"),
        ("transformer/config.json", {"audio_scale": float("inf")}, "audio_scale"),
        ("vae/config.json", {"scale_factor_temporal": 0}, "scale_factor_temporal"),
    ],
)
def test_configurations_of_a_saved_pipeline_are_checked_before_it_is_built(saved, tmp_path, file, values, field):
    folder = shutil.copytree(saved, tmp_path / "model", copy_function=os.link)
    path = folder / file
    config = json.loads(path.read_text())
    path.unlink()  # the original keeps its content
    path.write_text(json.dumps({**config, **values}))
    with pytest.raises(InputError) as error:
        FantasyTalkingPipeline.from_pretrained(folder)
    assert error.value.field == field and "\n" not in str(error.value)


def test_a_controls_object_equals_keyword_arguments_and_excludes_them(pipe, portrait):
    controls = GenerationControls(
        prompt="hello", body_motion=0.3, num_inference_steps=2, window_frames=17, overlap_frames=8
    )
    generator = torch.Generator().manual_seed(0)
    made = pipe(portrait, random_speech(0.5), controls=controls, generator=generator, output_type="latent").frames
    assert torch.equal(made, latents(pipe, portrait, body_motion=0.3))
    with raises_input_error(ErrorCode.conflict, "prompt", "hello"):
        pipe(portrait, random_speech(0.5), "hello", controls=controls)
