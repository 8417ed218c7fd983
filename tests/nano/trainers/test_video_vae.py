"""Tests of the VAE's data, training and statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.vae_full_clip import decode_full_clip, encode_full_clip
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.nano.corpora.frame_store import FrameStore
from fantasytalking.nano.trainers.component_trainer import train_component
from fantasytalking.nano.trainers.config import ComponentTrainingConfig, VaeTraining
from fantasytalking.nano.trainers.video_vae import (
    VideoVaeTask,
    build_vae,
    feature_weight_map,
    reconstruction_quality,
    save_vae,
    set_latent_statistics,
)
from fantasytalking.perception.face_track import track_faces
from fantasytalking.perception.landmark_measures import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from tests.helpers.errors import raises_input_error

CPU = torch.device("cpu")
INNER_LIPS = [78, 308, 13, 14]


def tiny(steps: int = 50, save_every: int = 100) -> VaeTraining:
    run = ComponentTrainingConfig(
        steps=steps, batch_size=2, learning_rate=0.003, warmup_steps=2, save_interval=save_every
    )
    return VaeTraining(
        base_dim=4, dim_mult=[1, 1, 1], clip_frames=5, crop_size=32, long_clip_frames=9, long_crop_size=16, fit=run
    )


@pytest.fixture(scope="module")
def trained(frames: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoVaeTask, float, float]:
    torch.set_num_threads(1)
    task = VideoVaeTask(tiny(), frames, 0, CPU)
    report = train_component(task, tiny().fit, tmp_path_factory.mktemp("vae"), CPU, 0)
    return task, report.first_loss, report.last_loss


def test_mouth_and_eyes_are_where_mediapipe_detects_them(frames: FrameStore) -> None:
    for video in range(len(frames)):
        stretch = frames.frame_range(video, 0, 12)
        (track,) = track_faces(np.array(frames.pixels[stretch]), np.arange(12) / 25)
        for feature, landmarks in enumerate((INNER_LIPS, LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS)):
            seen = track.landmarks[:, landmarks, :2].mean(axis=1)
            assert np.abs(seen - frames.feature_centers[stretch, feature]).max() < 4  # of 96 pixels


def test_the_weight_has_mean_one_and_peaks_at_mouth_and_eyes() -> None:
    centers = torch.tensor([[[[20.5, 40.5], [12.5, 20.5], [28.5, 20.5]]]])
    both = feature_weight_map(centers, torch.tensor([[30.0]]), 64, (4.0, 9.0, 9.0))[0, 0, 0]
    assert both.mean().item() == pytest.approx(1, abs=1e-5)
    assert both[20, 12] > both[20, 28] - 1e-3 > both[40, 20] > both[30, 20] > both[60, 60]
    weight = feature_weight_map(centers, torch.tensor([[30.0]]), 64, (4.0, 0.0, 0.0))
    assert weight.shape == (1, 1, 1, 64, 64)
    assert weight.mean().item() == pytest.approx(1, abs=1e-5)
    assert weight[0, 0, 0].argmax().item() == 40 * 64 + 20
    assert (weight.max() / weight.min()).item() == pytest.approx(5, rel=1e-3)


def test_training_lowers_the_loss(trained: tuple[VideoVaeTask, float, float]) -> None:
    _, first, last = trained
    assert last < 0.8 * first


def test_errors_of_eyes_and_motion_are_part_of_the_loss(frames: FrameStore) -> None:
    def first_loss(**weights: float) -> float:
        task = VideoVaeTask(replace(tiny(1), **weights), frames, 0, CPU)
        torch.manual_seed(0)
        return task.loss(np.random.default_rng(2), 1).item()

    plain = first_loss()
    assert first_loss(motion_weight=1.0) > plain
    assert first_loss(eye_weight=20.0) != plain


def test_a_resumed_training_ends_in_the_same_weights(frames: FrameStore, tmp_path: Path) -> None:
    whole, half, rest = (VideoVaeTask(tiny(4), frames, 0, CPU) for _ in range(3))
    train_component(whole, tiny(4).fit, tmp_path / "whole", CPU, 0)
    original = half.loss

    def stopping(random: np.random.Generator, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return original(random, step)

    half.loss = stopping  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train_component(half, tiny(4, save_every=2).fit, tmp_path / "parts", CPU, 0)
    train_component(rest, tiny(4, save_every=2).fit, tmp_path / "parts", CPU, 0)
    for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("patch", "widths", "channels", "residual"),
    [
        (1, [1, 1, 2, 1], 16, False),
        (2, [1, 2, 1], 16, False),
        (2, [1, 2, 2], 8, True),
        (1, [1, 2, 2, 1], 16, True),
        (4, [1, 2, 2], 8, True),
    ],
)
def test_full_clip_coding_equals_diffusers_streaming(
    patch: int, widths: list[int], channels: int, residual: bool
) -> None:
    config = VaeTraining(
        base_dim=4,
        dim_mult=widths,
        patch_size=patch,
        latent_channels=channels,
        residual_shortcuts=residual,
        clip_frames=5,
        crop_size=32,
        long_clip_frames=9,
        long_crop_size=16,
        fit=tiny().fit,
    )
    config.validate()
    vae = build_vae(config, 0).double().eval()
    video = torch.randn(2, 3, 13, 32, 48, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        moments = encode_full_clip(vae, video)
        assert moments.shape == (2, 2 * channels, 4, 32 // config.spatial_stride, 48 // config.spatial_stride)
        torch.testing.assert_close(moments, vae.encode(video).latent_dist.parameters, rtol=1e-4, atol=1e-5)
        latents = moments[:, :channels]
        whole = decode_full_clip(vae, latents).clamp(-1, 1)
        torch.testing.assert_close(whole, vae.decode(latents).sample, rtol=1e-4, atol=1e-5)
        single = VideoAutoencoder(vae)
        pieces = torch.cat(list(single.iter_decode(latents[:1])), dim=1)
        torch.testing.assert_close(pieces, whole[0].float(), rtol=1e-4, atol=1e-5)


def test_patches_of_four_pixels_give_latents_of_sixteen() -> None:
    config = replace(tiny(2), patch_size=4)
    config.validate()
    autoencoder = VideoAutoencoder(build_vae(config, 0))
    assert autoencoder.spatial_stride == config.spatial_stride == 16
    assert autoencoder.encode(torch.zeros(1, 3, 5, 32, 64)).shape == (1, config.latent_channels, 2, 2, 4)
    with raises_input_error(ErrorCode.conflict, "vae.patch_size", 8):
        replace(tiny(2), patch_size=8).validate()


def test_widths_without_possible_shortcuts_are_rejected() -> None:
    config = VaeTraining(base_dim=4, dim_mult=[1, 2, 3], residual_shortcuts=True, fit=tiny().fit)
    with raises_input_error(ErrorCode.conflict, "vae.dim_mult", [1, 2, 3]):
        config.validate()


def test_latents_are_standardized_and_stay_so_in_the_saved_vae(
    trained: tuple[VideoVaeTask, float, float], frames: FrameStore, tmp_path: Path
) -> None:
    task = trained[0]
    mean, deviation = set_latent_statistics(task.model, frames, clips=6, seed=0)
    assert mean < 0.5 and deviation < 0.5, "other clips of the same videos"
    save_vae(task.model, tmp_path / "vae")
    shipped = VideoAutoencoder.from_pretrained(tmp_path)
    assert next(iter(shipped.vae.parameters())).dtype == torch.float32
    clip = rearrange(torch.from_numpy(np.array(frames.pixels[frames.frame_range(0, 0, 29)])), "t h w c -> 1 c t h w")
    latents = shipped.encode(clip).transpose(0, 1).flatten(1)
    assert latents.mean(dim=1).abs().max() < 1 and 0.5 < latents.std(dim=1).mean() < 1.5
    assert (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size < 2.2 * sum(
        value.numel() for value in shipped.vae.parameters()
    ) + 20_000, "two bytes a weight, and names"
    quality = reconstruction_quality(shipped, frames)
    assert quality["videos"] == 2 and 5 < quality["psnr"] < 60 and 5 < quality["psnr_mouth"] < 60
