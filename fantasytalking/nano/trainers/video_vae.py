"""The miniature's causal video VAE: diffusers' AutoencoderKLWan at a fiftieth of its size.

Axes: B clips, T frames, F latent frames, H and W pixels, h and w latent size.
"""

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

from fantasytalking.encoders.vae_full_clip import channels_last, decode_whole, encode_whole
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.nano.config import VaeConfig
from fantasytalking.nano.corpora.frame_store import Frames
from fantasytalking.nano.half_precision import halve

GREY_SHARE = 0.1
"""Part of the clips that are one picture and then grey, as the image condition is encoded."""
RESIDUAL_GAIN, FIRST_BIAS, FIRST_LOG_VARIANCE = 0.3, 0.2, -5.0
MOUTH_RADIUS = 0.09
"""Of the weight around the mouth, as a part of the picture's height."""


def build_vae(config: VaeConfig, seed: int) -> AutoencoderKLWan:
    """A fresh VAE, 8 times smaller in space and 4 times in time."""
    torch.manual_seed(seed)
    halvings = len(config.dim_mult) - 1
    vae = AutoencoderKLWan(
        base_dim=config.base_dim,
        z_dim=config.channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=[place >= halvings - 2 for place in range(halvings)],
        in_channels=3 * config.patch_size**2,
        out_channels=3 * config.patch_size**2,
        patch_size=config.patch_size if config.patch_size > 1 else None,
        is_residual=config.residual,
        latents_mean=[0.0] * config.channels,
        latents_std=[1.0] * config.channels,
    )
    _initialise(vae)
    return vae


@torch.no_grad()
def _initialise(vae: AutoencoderKLWan) -> None:
    """First weights with which a short training gets far (the default ones hide the picture behind biases).

    Convolutions keep the size of what passes and add nothing to it, but for the first ones, since the normalisation has
    no gradient at zero, which plain grey is; residual branches begin small, so that pictures pass through at once; and
    the posterior begins narrow, so that its noise does not drown them.
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


class VaeTask:
    """Reconstruction of clips."""

    name = "vae"

    def __init__(self, config: VaeConfig, frames: Frames, seed: int, device: torch.device) -> None:
        self.model = channels_last(build_vae(config, seed))
        self._config, self._frames, self._device = config, frames, device

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Squared and absolute error of pixels, absolute error of edges, all weighted by the mouth, and a small KL."""
        config = self._config
        clips, mouths, side = self._draw(random, step)
        video = clips.to(self._device, memory_format=torch.channels_last_3d)
        posterior = DiagonalGaussianDistribution(encode_whole(self.model, video))
        result = decode_whole(self.model, posterior.sample()).float()
        weight = mouth_weight(mouths, side, clips.shape[-1], config.mouth_weight).to(self._device)
        error = result - video
        edges = sum(_edges(error, axis).abs() for axis in (-1, -2))
        squared = (weight * error.square()).mean()
        absolute = (weight * (error.abs() + edges)).mean()
        kl = posterior.kl().mean() / (posterior.mean[0].numel())
        return config.square_weight * squared + config.absolute_weight * absolute + config.kl_weight * kl

    def _draw(self, random: np.random.Generator, step: int) -> tuple[Tensor, Tensor, int]:
        """Clips (B, 3, T, s, s) in [-1, 1], mouths (B, T, 2) in their pixels, and the whole picture's side."""
        config, whole = self._config, self._frames.pixels.shape[1]
        size, count, batch = config.crop, config.frames, config.fit.batch
        if step % config.whole_every == 0:
            size, count = config.long_crop, config.long_frames
        elif step % config.whole_every == config.whole_every - 1:
            size, batch = whole, max(1, round(batch * (config.crop / whole) ** 2))
        drawn = [self._clip(random, size, count) for _ in range(batch)]
        pixels = torch.from_numpy(np.stack([clip for clip, _ in drawn])).float() / 127.5 - 1
        clips = rearrange(pixels, "b t h w c -> b c t h w")
        for number in range(batch):
            if random.random() < GREY_SHARE:
                clips[number, :, 1:] = 0
        return clips, torch.from_numpy(np.stack([mouths for _, mouths in drawn])), whole

    def _clip(
        self, random: np.random.Generator, size: int, count: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """`count` frames of a random video, cut to `size`: (T, s, s, 3) and mouths (T, 2), half of them mirrored."""
        frames = self._frames
        long_enough = [video for video in range(len(frames)) if frames.length(video) >= count]
        video = long_enough[int(random.integers(len(long_enough)))]
        stretch = frames.stretch(video, int(random.integers(frames.length(video) - count + 1)), count)
        whole = frames.pixels.shape[1]
        corner = random.integers(0, whole - size + 1, 2)
        if random.random() < 0.5:
            around = frames.mouths[stretch].mean(axis=0) - size / 2 + random.uniform(-size / 4, size / 4, 2)
            corner = np.clip(np.round(around).astype(int), 0, whole - size)
        left, top = (int(value) for value in corner)
        clip = frames.pixels[stretch, top : top + size, left : left + size]
        mouths = frames.mouths[stretch] - np.array([left, top], np.float32)
        if random.random() < 0.5:
            clip, mouths = clip[:, :, ::-1], np.stack([size - mouths[:, 0], mouths[:, 1]], axis=1)
        return np.ascontiguousarray(clip), mouths.astype(np.float32)


def mouth_weight(mouths: Tensor, whole: int, size: int, peak: float) -> Tensor:
    """(B, 1, T, size, size) of mean 1: `peak` more at the mouth (B, T, 2) than far from it."""
    place = torch.arange(size) + 0.5
    across = place - mouths[..., 0, None]  # (B, T, s)
    down = place - mouths[..., 1, None]
    radius = MOUTH_RADIUS * whole
    near = torch.exp(-0.5 * (across[:, :, None, :] ** 2 + down[:, :, :, None] ** 2) / radius**2)
    weight = 1 + peak * near
    return (weight / weight.mean())[:, None]


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, frames: Frames, clips: int, seed: int) -> tuple[float, float]:
    """Measures mean and deviation of each latent channel over whole clips and writes them into the VAE's config.

    Returns:
        the largest absolute mean and the largest distance of the deviation from 1 of the latents so normalised, on
        clips that were not measured.
    """
    vae.eval()
    drawn = [vae.encode(clip).latent_dist.mode().float() for clip in _whole_clips(vae, frames, 2 * clips, seed)]
    measured = torch.cat(drawn[:clips]).transpose(0, 1).flatten(1)
    mean, deviation = measured.mean(dim=1), measured.std(dim=1)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    others = torch.cat(drawn[clips:]).transpose(0, 1).flatten(1)
    normalised = (others - mean[:, None]) / deviation[:, None]
    return float(normalised.mean(dim=1).abs().max()), float((normalised.std(dim=1) - 1).abs().max())


def reconstruction_quality(vae: VideoAutoencoder, frames: Frames, count: int = 33) -> dict[str, float]:
    """Peak signal to noise ratio in decibels of each video's first 1 + 4k frames: of all of it, and of the mouth."""
    whole, mouth = [], []
    for video in range(len(frames)):
        length = min(count, frames.length(video))
        stretch = frames.stretch(video, 0, length - (length - 1) % 4)
        pixels = np.array(frames.pixels[stretch])
        clip = rearrange(torch.from_numpy(pixels), "t h w c -> 1 c t h w")
        result = vae.decode(vae.encode(clip)).cpu()
        error = ((result - (clip.float() / 127.5 - 1)) / 2).square()
        near = mouth_weight(torch.from_numpy(frames.mouths[stretch])[None], clip.shape[-1], clip.shape[-1], 1e6)
        whole.append(_decibels(error.mean()))
        mouth.append(_decibels((error * near).mean()))
    return {"psnr": float(np.mean(whole)), "psnr_mouth": float(np.mean(mouth)), "videos": len(whole)}


def save_vae(vae: AutoencoderKLWan, folder: Path) -> None:
    """Writes the part `vae` of a components folder, in half precision."""
    halve(vae)
    vae.save_pretrained(folder)


def _edges(video: Tensor, axis: int) -> Tensor:
    """Differences of neighbours along an axis, of the same shape."""
    return F.pad(torch.diff(video, dim=axis), (0, 1) if axis == -1 else (0, 0, 0, 1))


def _whole_clips(vae: AutoencoderKLWan, frames: Frames, count: int, seed: int) -> list[Tensor]:
    random = np.random.default_rng([seed, 77])
    clips = []
    for _ in range(count):
        video = int(random.integers(len(frames)))
        length = min(33, frames.length(video))
        stretch = frames.stretch(video, int(random.integers(frames.length(video) - length + 1)), length)
        pixels = np.array(frames.pixels[stretch])[: length - (length - 1) % 4]
        clip = torch.from_numpy(pixels).to(vae.device, torch.float32) / 127.5 - 1
        clips.append(rearrange(clip, "t h w c -> 1 c t h w").to(vae.dtype))
    return clips


def _decibels(error: Tensor) -> float:
    return float(-10 * torch.log10(error.clamp_min(1e-10)))
