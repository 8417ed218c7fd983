"""Training of nano's causal video VAE: diffusers' AutoencoderKLWan at a fiftieth of its size.

Axes: B clips, T frames, F latent frames, H and W pixels, h and w latent size.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResidualBlock
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.encoders.vae_full_clip import decode_full_clip, encode_full_clip, to_channels_last
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.nano.corpora.frame_store import FrameStore
from fantasytalking.nano.half_precision import to_half_precision
from fantasytalking.nano.trainers.config import NANO_GEOMETRY, VaeTraining

GRAY_FRACTION = 0.1
"""Fraction of the clips whose frames after the first are gray, as in the encoding of the image condition."""
RESIDUAL_GAIN, FIRST_BIAS, FIRST_LOG_VARIANCE = 0.3, 0.2, -5.0
MOUTH_RADIUS, EYE_RADIUS = 0.234, 0.15
"""Standard deviations of the weights around mouth and eyes, in head units (`camera.PORTRAIT_HEIGHT_UNITS`)."""


def build_vae(config: VaeTraining, seed: int) -> AutoencoderKLWan:
    """Returns an untrained VAE that compresses `config.spatial_stride` times in space and 4 times in time."""
    torch.manual_seed(seed)
    halvings = len(config.dim_mult) - 1
    vae = AutoencoderKLWan(
        base_dim=config.base_dim,
        z_dim=config.latent_channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=[level >= halvings - 2 for level in range(halvings)],
        in_channels=3 * config.patch_size**2,
        out_channels=3 * config.patch_size**2,
        patch_size=config.patch_size if config.patch_size > 1 else None,
        is_residual=config.residual_shortcuts,
        scale_factor_spatial=config.spatial_stride,
        latents_mean=[0.0] * config.latent_channels,
        latents_std=[1.0] * config.latent_channels,
    )
    _initialize(vae)
    return vae


@torch.no_grad()
def _initialize(vae: AutoencoderKLWan) -> None:
    """Initializes the weights for a short training (with the defaults, biases dominate the signal).

    Convolutions preserve the variance and have no bias, except for the first ones: uniform gray is zero, where the
    normalization has no gradient. Residual branches start small, so that the signal passes from the first step, and the
    posterior starts narrow, so that its noise does not mask the signal.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.normal_(0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                module.bias.zero_()
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight.mul_(RESIDUAL_GAIN)
        elif isinstance(module, WanAttentionBlock):
            nn.init.zeros_(module.proj.weight)
    for first in (vae.encoder.conv_in, vae.decoder.conv_in):
        first.bias.normal_(0, FIRST_BIAS)
    channels = vae.config["z_dim"]
    vae.quant_conv.weight[channels:] *= 0.1
    vae.quant_conv.bias[channels:] = FIRST_LOG_VARIANCE


class VideoVaeTask:
    """Reconstruction of video clips."""

    name = "vae"

    def __init__(self, config: VaeTraining, frames: FrameStore, seed: int, device: torch.device) -> None:
        self.model = to_channels_last(build_vae(config, seed))
        self._config, self._frames, self._device = config, frames, device

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Returns squared and absolute errors of pixels and the absolute error of edges and motion, weighted around
        mouth and eyes, plus a small KL term."""
        config = self._config
        clips, features, units = self._sample_batch(random, step)
        video = clips.to(self._device, memory_format=torch.channels_last_3d)
        posterior = DiagonalGaussianDistribution(encode_full_clip(self.model, video))
        result = decode_full_clip(self.model, posterior.sample()).float()
        peaks = (config.mouth_weight, config.eye_weight, config.eye_weight)
        weight = feature_weight_map(features, units, clips.shape[-1], peaks).to(self._device)
        error = result - video
        edges = sum(_gradients(error, axis).abs() for axis in (-1, -2))
        squared = (weight * error.square()).mean()
        absolute = (weight * (error.abs() + edges)).mean()
        if config.motion_weight:
            absolute = absolute + config.motion_weight * (weight[:, :, 1:] * torch.diff(error, dim=2).abs()).mean()
        kl = posterior.kl().mean() / (posterior.mean[0].numel())
        return config.mse_weight * squared + config.l1_weight * absolute + config.kl_weight * kl

    def _sample_batch(self, random: np.random.Generator, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns clips (B, 3, T, s, s) in [-1, 1], centers of the features (B, T, 3, 2) in pixels, and the length of
        the head unit (B, T) in pixels."""
        config, full_size = self._config, self._frames.pixels.shape[1]
        size, count, batch = config.crop_size, config.clip_frames, config.fit.batch_size
        if step % config.full_frame_interval == 0:
            size, count = config.long_crop_size, config.long_clip_frames
        elif step % config.full_frame_interval == config.full_frame_interval - 1:
            size, batch = full_size, max(1, round(batch * (config.crop_size / full_size) ** 2))
        samples = [self._sample_clip(random, size, count) for _ in range(batch)]
        pixels = torch.from_numpy(np.stack([sample[0] for sample in samples])).float() / 127.5 - 1
        clips = rearrange(pixels, "b t h w c -> b c t h w")
        for number in range(batch):
            if random.random() < GRAY_FRACTION:
                clips[number, :, 1:] = 0
        features, units = (torch.from_numpy(np.stack([sample[index] for sample in samples])) for index in (1, 2))
        return clips, features, units

    def _sample_clip(
        self, random: np.random.Generator, size: int, count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        """Returns `count` frames of a random video, cropped to `size` (T, s, s, 3), centers of the features (T, 3, 2),
        and lengths of the head unit (T,); half of the clips are mirrored."""
        frames = self._frames
        long_enough = [video for video in range(len(frames)) if frames.video_length(video) >= count]
        video = long_enough[int(random.integers(len(long_enough)))]
        chosen = frames.frame_range(video, int(random.integers(frames.video_length(video) - count + 1)), count)
        full_size = frames.pixels.shape[1]
        corner = random.integers(0, full_size - size + 1, 2)
        if random.random() < 0.5:
            weighted = 3 if self._config.eye_weight > 0 else 1
            center = frames.feature_centers[chosen, int(random.integers(weighted))].mean(axis=0)
            near = center - size / 2 + random.uniform(-size / 4, size / 4, 2)
            corner = np.clip(np.round(near).astype(int), 0, full_size - size)
        left, top = (int(value) for value in corner)
        clip = frames.pixels[chosen, top : top + size, left : left + size]
        features = frames.feature_centers[chosen] - np.array([left, top], np.float32)
        if random.random() < 0.5:
            clip, features = clip[:, :, ::-1], np.stack([size - features[..., 0], features[..., 1]], axis=-1)
        return np.ascontiguousarray(clip), features.astype(np.float32), frames.head_units[chosen]


def feature_weight_map(centers: Tensor, head_units: Tensor, size: int, peaks: Sequence[float]) -> Tensor:
    """Returns weights (B, 1, T, size, size) of mean 1, which are larger around mouth and eyes.

    Args:
        centers: (B, T, 3, 2) column and row of mouth and eyes in pixels of the clip.
        head_units: (B, T) length of the head unit in pixels, which determines the radii.
        size: side of the clip in pixels.
        peaks: additional weights at the three centers, before normalization.
    """
    positions = torch.arange(size) + 0.5
    weight = torch.ones(*head_units.shape, size, size)
    for feature, (peak, radius) in enumerate(zip(peaks, (MOUTH_RADIUS, EYE_RADIUS, EYE_RADIUS), strict=True)):
        across, down = (positions - centers[:, :, feature, axis, None] for axis in (0, 1))  # (B, T, s)
        squares = across[:, :, None, :] ** 2 + down[:, :, :, None] ** 2
        weight = weight + peak * torch.exp(-0.5 * squares / (radius * head_units[..., None, None]) ** 2)
    return (weight / weight.mean())[:, None]


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, frames: FrameStore, clips: int, seed: int) -> tuple[float, float]:
    """Measures mean and standard deviation of each latent channel and writes them to the VAE's config.

    Returns:
        the largest absolute mean and the largest distance of the standard deviation from 1 of normalized latents, on
        as many other clips.
    """
    vae.eval()
    latents = [vae.encode(clip).latent_dist.mode().float() for clip in _full_frame_clips(vae, frames, 2 * clips, seed)]
    measured = torch.cat(latents[:clips]).transpose(0, 1).flatten(1)
    mean, deviation = measured.mean(dim=1), measured.std(dim=1)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    others = torch.cat(latents[clips:]).transpose(0, 1).flatten(1)
    normalized = (others - mean[:, None]) / deviation[:, None]
    return float(normalized.mean(dim=1).abs().max()), float((normalized.std(dim=1) - 1).abs().max())


def reconstruction_quality(vae: VideoAutoencoder, frames: FrameStore, count: int = 33) -> dict[str, float]:
    """Returns the mean PSNR in dB over the first 1 + 4k frames of each video: of full frames, around mouth and eyes."""
    full: list[float] = []
    mouth: list[float] = []
    eyes: list[float] = []
    for video in range(len(frames)):
        length = min(count, frames.video_length(video))
        chosen = frames.frame_range(video, 0, length - (length - 1) % NANO_GEOMETRY.temporal_stride)
        pixels = np.array(frames.pixels[chosen])
        clip = rearrange(torch.from_numpy(pixels), "t h w c -> 1 c t h w")
        result = vae.decode(vae.encode(clip)).cpu()
        error = ((result - (clip.float() / 127.5 - 1)) / 2).square()
        centers, units = (
            torch.from_numpy(values[chosen])[None] for values in (frames.feature_centers, frames.head_units)
        )
        for values, peaks in ((full, (0, 0, 0)), (mouth, (1e6, 0, 0)), (eyes, (0, 1e6, 1e6))):
            values.append(_psnr((error * feature_weight_map(centers, units, clip.shape[-1], peaks)).mean()))
    return {
        "psnr": float(np.mean(full)),
        "psnr_mouth": float(np.mean(mouth)),
        "psnr_eyes": float(np.mean(eyes)),
        "videos": len(full),
    }


def save_vae(vae: AutoencoderKLWan, folder: Path) -> None:
    """Writes the component `vae` in half precision."""
    to_half_precision(vae)
    vae.save_pretrained(folder)


def _gradients(video: Tensor, axis: int) -> Tensor:
    """Returns differences of neighboring pixels along an axis, padded to the shape of `video`."""
    return F.pad(torch.diff(video, dim=axis), (0, 1) if axis == -1 else (0, 0, 0, 1))


def _full_frame_clips(vae: AutoencoderKLWan, frames: FrameStore, count: int, seed: int) -> list[Tensor]:
    random = np.random.default_rng([seed, 77])
    clips = []
    for _ in range(count):
        video = int(random.integers(len(frames)))
        length = min(33, frames.video_length(video))
        chosen = frames.frame_range(video, int(random.integers(frames.video_length(video) - length + 1)), length)
        pixels = np.array(frames.pixels[chosen])[: length - (length - 1) % NANO_GEOMETRY.temporal_stride]
        clip = torch.from_numpy(pixels).to(vae.device, torch.float32) / 127.5 - 1
        clips.append(rearrange(clip, "t h w c -> 1 c t h w").to(vae.dtype))
    return clips


def _psnr(error: Tensor) -> float:
    return float(-10 * torch.log10(error.clamp_min(1e-10)))
