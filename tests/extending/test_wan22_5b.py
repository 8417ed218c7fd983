"""A base of the kind of Wan2.2-TI2V-5B: equal to diffusers' pipeline, trained, resumed, streamed and saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig, WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.checkpoints.convert import convert_wan_to_diffusers
from fantasytalking.common.errors import ErrorCode
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import PortraitCollator
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.encoders.vae_streaming import StreamingVaeDecoder
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.image_conditioning import ImageConditioning
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import FantasyTalkingPipeline, GenerationControls, Portrait
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.objectives import build_objective
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.trainer import Trainer
from tests.checkpoints.test_convert import original_names
from tests.extending.diffusers_steps import SECONDS, assert_equal_steps, latents_of_both
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_components import TEXT_DIM
from tests.helpers.tiny_pipeline import random_speech
from tests.helpers.tiny_transformer import randomize_zero_init
from tests.helpers.tiny_wan22 import (
    CHANNELS_5B,
    PORTRAIT_SIZES,
    WAN_5B,
    add_preset,
    save_5b,
    tiny_vae_5b,
    tiny_vae_other_strides,
    train_config,
    use_configs,
)
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, read_losses
from tests.training.tiny_corpus import make_corpus

STAGE2 = {"stage__name": "stage2", "stage__alignment": "frame", "stage__loss__weight": "lip"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_5b(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    model = load_from_wan(base, PORTRAIT_SIZES)
    randomize_zero_init(model, 0.3)
    folder = tmp_path_factory.mktemp("adapter") / "all"
    save_adapter(model, folder, AdapterConfig(["audio", "face", "motion"], "seconds"))
    return folder


@pytest.fixture(scope="module")
def pipe(base: Path, adapter: Path) -> FantasyTalkingPipeline:
    return quiet(FantasyTalkingPipeline.from_base(base, adapter, module_config=PORTRAIT_SIZES, text_length=8))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def model_inputs(num_frames: int = 3, side: int = 4) -> tuple[Tensor, Tensor, Conditions]:
    """Latents, timesteps and conditions of two samples."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator)

    conditions = Conditions(
        prompt_embeds=random(5, TEXT_DIM),
        image_embeds=None,
        image_latents=random(CHANNELS_5B, 1, side, side),
        audio_embeds=random(num_frames, 17, PORTRAIT_SIZES["audio_dim"]),
        audio_mask=torch.ones(2, num_frames, 17, dtype=torch.bool),
        face_embeds=random(1, 512),
        motion_intensity=torch.rand(2, 2, generator=generator),
        condition_scale=torch.ones(2, 2),
    )
    return random(CHANNELS_5B, num_frames, side, side), torch.tensor([700.0, 300.0]), conditions


@pytest.mark.parametrize(
    ("build", "strides"), [(tiny_vae_5b, (16, 4)), (tiny_vae_other_strides, (4, 2))], ids=["5b", "other"]
)
def test_vaes_of_other_strides_encode_and_decode_as_diffusers(build: Any, strides: tuple[int, int]) -> None:
    vae = build().eval()
    autoencoder = VideoAutoencoder(vae)
    assert (autoencoder.spatial_stride, autoencoder.temporal_stride) == strides
    video = torch.rand(1, 3, 9, 32, 48, generator=torch.manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = (vae.encode(video).latent_dist.mode() - mean) / std
        latents = autoencoder.encode(video)
        assert latents.shape == (1, vae.config.z_dim, 1 + 8 // strides[1], 32 // strides[0], 48 // strides[0])
        torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
        pixels = vae.decode(latents * std + mean).sample
    assert pixels.shape == video.shape
    streaming = StreamingVaeDecoder(vae)
    pieces = [*streaming.decode(latents[:, :, :1]), *streaming.decode(latents[:, :, 1:])]
    assert [piece.shape[1] for piece in pieces] == [1] + [strides[1]] * (latents.shape[2] - 1)
    torch.testing.assert_close(torch.cat(pieces, dim=1)[None], pixels)
    torch.testing.assert_close(torch.cat(list(autoencoder.iter_decode(latents)), dim=1)[None], pixels)
    torch.testing.assert_close(autoencoder.encode(video[:, :, :1]), latents[:, :, :1], rtol=1e-5, atol=1e-5)


def test_the_first_frame_is_replaced_and_has_timestep_zero(base: Path) -> None:
    model = load_from_wan(base, PORTRAIT_SIZES)
    randomize_zero_init(model, 0.3)
    assert model.image_conditioning is ImageConditioning.first_frame_replace
    latents, timestep, conditions = model_inputs()
    other = latents.clone()
    other[:, :, 0] = 5
    per_token = torch.cat([torch.zeros(2, 4), timestep[:, None].expand(2, 8)], dim=1)
    with torch.no_grad():
        expected = model(latents, timestep, conditions).sample
        assert torch.equal(model(other, timestep, conditions).sample, expected), "latent frame 0 is not read"
        assert torch.equal(model(latents, per_token, conditions).sample, expected)
        moved = conditions._replace(image_latents=conditions.image_latents + 1)
        assert not torch.equal(model(latents, timestep, moved).sample, expected)
        everywhere = model(latents, timestep[:, None].expand(2, 12), conditions).sample
    assert not torch.equal(everywhere, expected)
    with raises_input_error(ErrorCode.shape_mismatch, "timestep", (2, 5)):
        model(latents, per_token[:, :5], conditions)
    whole = conditions.image_latents.expand(-1, -1, 3, -1, -1)
    with raises_input_error(ErrorCode.shape_mismatch, "image_latents", tuple(whole.shape)):
        model(latents, timestep, conditions._replace(image_latents=whole))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_fresh_model_denoises_as_diffusers_step_by_step(
    base: Path, portrait: Portrait, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    ours = quiet(
        FantasyTalkingPipeline.from_base(base, fresh_adapter(base), module_config=PORTRAIT_SIZES, text_length=8)
    )
    transformer = WanTransformer3DModel.from_pretrained(base / "transformer")
    both = latents_of_both(monkeypatch, ours, portrait, (scale, None), transformer=transformer, expand_timesteps=True)
    assert_equal_steps(*both, is_guided=scale > 1)


def test_a_fresh_model_predicts_as_diffusers_in_bfloat16(base: Path) -> None:
    ours = load_from_wan(base, PORTRAIT_SIZES, dtype=torch.bfloat16)
    theirs = WanTransformer3DModel.from_pretrained(base / "transformer", torch_dtype=torch.bfloat16)
    latents, timestep, conditions = model_inputs()
    latents, conditions = latents.bfloat16(), conditions.to(dtype=torch.bfloat16)
    replaced = torch.cat([conditions.image_latents, latents[:, :, 1:]], dim=2)
    per_token = torch.cat([torch.zeros(2, 4), timestep[:, None].expand(2, 8)], dim=1)
    with torch.no_grad():
        expected = theirs(replaced, per_token, conditions.prompt_embeds).sample
        assert torch.equal(ours(latents, timestep, conditions).sample, expected)


def fresh_adapter(base: Path) -> Path:
    folder = base.parent / "fresh_adapter"
    if not folder.exists():
        save_adapter(load_from_wan(base, PORTRAIT_SIZES), folder, AdapterConfig(["audio"], "seconds"))
    return folder


def test_long_videos_and_streams_start_with_the_portrait(pipe: FantasyTalkingPipeline, portrait: Portrait) -> None:
    controls = GenerationControls(num_inference_steps=2, window_frames=17, overlap_frames=8)
    output = pipe(portrait, random_speech(1.2), controls=controls, output_type="latent")
    assert output.frames.shape == (1, CHANNELS_5B, 9, 2, 2) and output.num_frames == 30
    image = VideoAutoencoder(pipe.vae).encode(torch.from_numpy(portrait.pixels.copy()).permute(2, 0, 1)[None, :, None])
    torch.testing.assert_close(output.frames[:, :, :1], image)
    pieces = list(pipe.stream(portrait, AudioSampleQueue([random_speech(1.2)]), controls))
    frames = np.concatenate([piece.frames for piece in pieces])
    assert frames.shape == (30, 32, 32, 3)
    decoded = next(iter(pipe.iterate_frames(image, 1)))
    assert np.abs(frames[0].astype(int) - decoded).max() <= 1


@pytest.mark.parametrize("cache", [FirstBlockCacheConfig(threshold=0.5), TaylorSeerCacheConfig(cache_interval=2)])
def test_step_caches_work_with_a_timestep_per_token(base: Path, adapter: Path, portrait: Portrait, cache: Any) -> None:
    pipe = quiet(FantasyTalkingPipeline.from_base(base, adapter, module_config=PORTRAIT_SIZES, text_length=8))
    calls: list[int] = []
    pipe.transformer.blocks[-1].ffn.net[2].register_forward_hook(lambda *_: calls.append(1))
    pipe.transformer.enable_cache(cache)
    frames = pipe(portrait, random_speech(SECONDS), num_inference_steps=6, audio_guidance_scale=1.0).frames
    assert np.isfinite(frames).all() and 0 < len(calls) < 6, "a step was reused"


def test_the_pipeline_is_saved_and_loaded_without_clip(
    pipe: FantasyTalkingPipeline, portrait: Portrait, tmp_path: Path
) -> None:
    assert pipe.image_encoder is None and pipe.image_processor is None
    pipe.save_pretrained(tmp_path / "saved")
    loaded = quiet(FantasyTalkingPipeline.from_pretrained(tmp_path / "saved"))
    again = quiet(FantasyTalkingPipeline.from_pipe(pipe))
    results = [
        each(portrait, random_speech(SECONDS), num_inference_steps=2, generator=torch.manual_seed(0)).frames
        for each in (pipe, loaded, again)
    ]
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_sizes_without_whole_tokens_are_refused(pipe: FantasyTalkingPipeline, portrait: Portrait) -> None:
    wide = portrait._replace(pixels=np.zeros((32, 48, 3), np.uint8))  # 48 = 3 latent cells of 16
    with raises_input_error(ErrorCode.out_of_range, "width", "48x32"):
        pipe(wide, random_speech(SECONDS))
    with raises_input_error(ErrorCode.out_of_range, "width", "48x32"):
        pipe.stream(wide, AudioSampleQueue([random_speech(SECONDS)]))


def test_a_text_to_video_base_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "transformer").symlink_to(base / "transformer")
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with raises_input_error(ErrorCode.unsupported, "base", str(tmp_path)):
        load_from_wan(tmp_path)


def test_the_original_names_of_the_weights_are_read(base: Path, tmp_path: Path) -> None:
    transformer = WanTransformer3DModel.from_pretrained(base / "transformer")
    save_file(original_names(transformer), tmp_path / "wan.safetensors", metadata={"num_heads": "2"})
    torch.manual_seed(0)
    expected = load_from_wan(base, PORTRAIT_SIZES).state_dict()
    torch.manual_seed(0)
    assert bit_equal(load_from_wan(tmp_path / "wan.safetensors", PORTRAIT_SIZES).state_dict(), expected)
    convert_wan_to_diffusers(tmp_path / "wan.safetensors", tmp_path / "converted")
    converted = WanTransformer3DModel.from_pretrained(tmp_path / "converted")
    assert converted.config.in_channels == CHANNELS_5B and converted.config.image_dim is None
    assert bit_equal(converted.state_dict(), transformer.state_dict())


@pytest.fixture
def configure(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig]:
    """configure("name", key__sub=value) is a training configuration of the preset tiny-5b."""
    configs = use_configs(monkeypatch, tmp_path / "configs")
    add_preset(configs, "tiny-5b", base, WAN_5B, vae={"scale_factor_spatial": 16, "scale_factor_temporal": 4})
    corpus = make_corpus(
        tmp_path / "corpus", clips=4, channels=CHANNELS_5B, spatial_stride=16, image=False, text_dim=TEXT_DIM
    )
    return lambda name, **changes: train_config("tiny-5b", tmp_path / name, corpus, base, **changes)


def test_stages_train_and_resume(configure: Callable[..., TrainConfig], base: Path, portrait: Portrait) -> None:
    first = Trainer(configure("stage1", stage__steps=2)).train()
    stage2 = STAGE2 | {"stage__init_from": first}
    straight = Trainer(configure("straight", stage__steps=4, **stage2)).train()
    Trainer(configure("resumed", stage__steps=2, **stage2)).train()
    resumed = Trainer(configure("resumed", stage__steps=4, **stage2)).train()
    assert bit_equal(load_adapter_tensors(resumed.parent), load_adapter_tensors(straight.parent))
    assert read_losses(resumed.parent) == read_losses(straight.parent)
    pipe = quiet(FantasyTalkingPipeline.from_base(base, straight, module_config=PORTRAIT_SIZES, text_length=8))
    assert pipe(portrait, random_speech(SECONDS), num_inference_steps=1).frames.shape == (1, 9, 32, 32, 3)


def test_a_student_of_four_steps_is_distilled(
    configure: Callable[..., TrainConfig], base: Path, adapter: Path, portrait: Portrait
) -> None:
    stage3 = {"stage__name": "stage3", "stage__alignment": "frame", "stage__init_from": adapter}
    stage3 |= {f"stage__dropout__{name}": 0 for name in ("reference", "audio", "prompt")}
    stage3 |= {"stage__trainable": "[guidance]", "stage__lora__rank": 2, "stage__distillation__embedder_dim": 8}
    student = Trainer(configure("stage3", stage__steps=1, **stage3)).train()
    pipe = quiet(FantasyTalkingPipeline.from_base(base, student, module_config=PORTRAIT_SIZES, text_length=8))
    assert pipe(portrait, random_speech(SECONDS)).frames.shape == (1, 9, 32, 32, 3)


def test_the_loss_does_not_count_the_given_frame(configure: Callable[..., TrainConfig]) -> None:
    config = configure("run", **STAGE2)
    batch = PortraitCollator(config.collate_config())(
        [PortraitDataset(*config.data.manifests)[index] for index in range(2)]
    )
    assert batch.num_given_frames == 1 and batch.conditions.image_embeds is None
    assert batch.conditions.image_latents.shape == (2, CHANNELS_5B, 1, 4, 4)
    model, _ = build_model(config, torch.float32)
    draws = step_randomness(0, 0, range(2), batch.latents.shape[1:])
    changed = batch._replace(latents=batch.latents.clone(), lip_mask=batch.lip_mask.clone())
    changed.latents[:, :, 0] += 3
    changed.lip_mask[:, :, 0] = 0
    losses = [
        build_objective(config.stage).compute_loss(model, each, draws, torch.float32).loss for each in (batch, changed)
    ]
    assert torch.equal(*losses)


def test_a_given_first_frame_cannot_be_dropped(configure: Callable[..., TrainConfig]) -> None:
    with raises_input_error(ErrorCode.conflict, "stage.dropout.reference_target", "all"):
        configure("run", stage__dropout__reference_target="all")
