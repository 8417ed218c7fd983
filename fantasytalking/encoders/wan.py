"""Provides Wan's frozen encoders as in diffusers' WanImageToVideoPipeline: causal VAE, umT5 and CLIP.

Axes: B batch, Z latent channels, T frames (1 + s k), F latent frames (1 + k), H and W pixels, h and w latent size; s is
the temporal stride of the VAE (Wan: 4).
"""

import html
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from diffusers.utils.torch_utils import get_module_execution_device
from einops import rearrange
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
)

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_IMAGE_SIDE
from fantasytalking.common.tensor_io import check_finite_result
from fantasytalking.encoders.loading import LOADING_ERRORS, load_component, load_model, onload_module
from fantasytalking.encoders.vae_config import check_vae_config
from fantasytalking.encoders.vae_full_clip import encode_full_clip, to_channels_last
from fantasytalking.encoders.vae_tiling import decode_in_tiles
from fantasytalking.encoders.wan_layout import first_frame_mask, pad_prompt_embeds
from fantasytalking.latent_geometry import LatentGeometry, latent_frame_count

__all__ = ["ImageEncoder", "TextEncoder", "VideoAutoencoder", "clean_prompt", "first_frame_mask", "pad_prompt_embeds"]

MAX_FULL_CLIP_PIXELS = 1 << 20
"""Maximum number of pixels, over all frames of a batch, that are encoded at once instead of in pieces."""

PIECE_FRAMES = 4
"""Frames of the pieces in which diffusers encodes a video, whatever the temporal stride. At another stride a piece is
no whole number of latent frames, and the video is encoded at once."""


class VideoAutoencoder:
    """Encodes videos to normalized latents and decodes them with the causal VAE.

    Normalized latents are (latent - latents_mean) / latents_std, the space of the transformer.

    Args:
        vae: the VAE; its weights are converted to channels-last.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = to_channels_last(vae)
        self.temporal_stride: int = vae.config["scale_factor_temporal"]
        self.spatial_stride: int = vae.config["scale_factor_spatial"]

    @property
    def geometry(self) -> LatentGeometry:
        """Strides of the VAE, with the patch of Wan's transformers."""
        return LatentGeometry(self.spatial_stride, self.temporal_stride)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> "VideoAutoencoder":
        """Loads the component `vae` of a diffusers folder or hub id; diffusers recommends float32 for this VAE.

        Args:
            options: further arguments of its `from_pretrained`.

        Raises:
            InputError: the component is missing, damaged or incomplete, or its configuration cannot be used.
        """
        vae = load_model(AutoencoderKLWan, source, "vae", "VAE", device=device, torch_dtype=dtype, **options)
        check_vae_config(vae.config, str(source))
        return cls(vae)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Returns the normalized latents of a video: the mode of the posterior.

        Args:
            video: (B, 3, T, H, W), uint8 in [0, 255] or floating point in [-1, 1].

        Returns:
            (B, Z, F, h, w) float32 on the VAE's device.

        Raises:
            InputError: T is not 1 + s k, or H or W is not a multiple of the spatial stride.
        """
        self._check_video(video)
        pixels = self._to_signed_unit(video)
        is_small = video[:, 0].numel() <= MAX_FULL_CLIP_PIXELS
        if (is_small or self.temporal_stride != PIECE_FRAMES) and not self.vae.use_tiling:
            onload_module(self.vae)
            moments = encode_full_clip(self.vae, pixels.contiguous(memory_format=torch.channels_last_3d))
            return self._normalize(moments[:, : self.vae.config["z_dim"]].float())
        return self._normalize(self.vae.encode(pixels).latent_dist.mode().float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Returns the video (B, 3, T, H, W) float32 in [-1, 1] of normalized `latents` (B, Z, F, h, w)."""
        check_finite_result(latents, "latents")
        mean, std = self._statistics(latents)
        latents = latents.to(self._device, torch.float32) * std + mean
        pixels = self.vae.decode(latents.to(self.vae.dtype)).sample.float()
        check_finite_result(pixels, "pixels")
        return pixels

    @torch.no_grad()
    def iter_decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Decodes as `decode`, one latent frame at a time; memory does not grow with the length.

        Args:
            latents: (1, Z, F, h, w) normalized.

        Yields:
            (3, 1, H, W), then (3, s, H, W) F - 1 times, in [-1, 1], float32.
        """
        assert latents.shape[0] == 1, "one video"
        check_finite_result(latents, "latents")
        onload_module(self.vae)
        mean, std = self._statistics(latents)
        device = self._device
        if self.vae.use_tiling:
            scaled = (latents.to(device, torch.float32) * std + mean).to(self.vae.dtype)
            video = decode_in_tiles(self.vae, scaled)  # tiles span the whole video
            for pixels in video.split([1, *[self.temporal_stride] * (latents.shape[2] - 1)], dim=2):
                yield self._checked_pixels(pixels)
            return
        self.vae.clear_cache()
        try:
            for number in range(latents.shape[2]):
                frame = latents[:, :, number : number + 1].to(device, torch.float32) * std + mean
                self.vae._conv_idx = [0]
                pixels = self.vae.decoder(
                    self.vae.post_quant_conv(frame.to(self.vae.dtype)),
                    feat_cache=self.vae._feat_map,
                    feat_idx=self.vae._conv_idx,
                    first_chunk=number == 0,
                )
                yield self._checked_pixels(pixels)
        finally:
            self.vae.clear_cache()

    def _checked_pixels(self, pixels: Tensor) -> Tensor:
        """(1, C, t, H, W) of the decoder -> (3, t, H, W) in [-1, 1], float32."""
        check_finite_result(pixels, "pixels")
        return unpatchify(pixels, self.vae.config["patch_size"] or 1)[0].clamp(-1, 1).float()

    def encode_first_frame(self, image: Tensor, num_frames: int) -> Tensor:
        """Returns Wan's image condition: the latents of the video [image, 0, 0, ...].

        Args:
            image: (B, 3, H, W), uint8 in [0, 255] or floating point in [-1, 1].
            num_frames: number of frames of the video, 1 + s k.

        Returns:
            (B, Z, F, h, w) float32.

        Raises:
            InputError: as `encode`.
        """
        first = rearrange(self._to_signed_unit(image), "b c h w -> b c 1 h w")
        padding = first.new_zeros(*first.shape[:2], num_frames - 1, *first.shape[3:])
        return self.encode(torch.cat([first, padding], dim=2))

    def first_frame_mask(self, latents: Tensor) -> Tensor:
        """Returns the mask channels (B, s, F, h, w) of first-frame latents: 1 in latent frame 0, 0 elsewhere."""
        return first_frame_mask(latents, self.temporal_stride)

    @property
    def _device(self) -> torch.device:
        """Device on which the VAE computes; offloaded weights may be on another one."""
        return get_module_execution_device(self.vae)

    def _check_video(self, video: Tensor) -> None:
        assert video.ndim == 5 and video.shape[1] == 3, f"video must be (B, 3, T, H, W), not {tuple(video.shape)}"
        latent_frame_count(video.shape[2], self.temporal_stride)
        for name, size in (("height", video.shape[3]), ("width", video.shape[4])):
            if size % self.spatial_stride:
                raise InputError(
                    f"{name} is {size}; it must be a multiple of {self.spatial_stride}; resize the video",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=size,
                )

    def _to_signed_unit(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self._device)
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(torch.float32) / 127.5 - 1
        return pixels.to(self.vae.dtype)

    def _normalize(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return (latents - mean) * (1 / std)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, self.vae.config["z_dim"], 1, 1, 1)
        mean = torch.tensor(self.vae.config["latents_mean"], device=self._device, dtype=torch.float32)
        std = torch.tensor(self.vae.config["latents_std"], device=self._device, dtype=torch.float32)
        return mean.view(shape), std.view(shape)


class TextEncoder:
    """Encodes prompts with umT5.

    Args:
        model: the encoder.
        tokenizer: its tokenizer.
        max_tokens: number of tokens to which prompts are truncated.
    """

    def __init__(self, model: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int = 512) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> "TextEncoder":
        """Loads the components `text_encoder` and `tokenizer` of a diffusers folder or hub id.

        Args:
            options: further arguments of the model's `from_pretrained`.

        Raises:
            InputError: a component is missing, damaged or incomplete.
        """
        tokenizer = load_component(AutoTokenizer.from_pretrained, source, "tokenizer", "text tokenizer")
        model = load_model(
            UMT5EncoderModel, source, "text_encoder", "text encoder", device=device, dtype=dtype, **options
        )
        return cls(model, tokenizer)

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """Returns the states (T, D) float32 of the tokens of `prompt`, T <= max_tokens; longer prompts are truncated.

        Wan pads the states with zeros (`pad_prompt_embeds`). The encoder masks padding, so that it need not be encoded.
        """
        tokens = self.tokenizer(
            [clean_prompt(prompt)],
            max_length=self.max_tokens,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        device = get_module_execution_device(self.model)
        states = self.model(tokens.input_ids.to(device), tokens.attention_mask.to(device)).last_hidden_state
        return states[0].float()


def clean_prompt(prompt: str) -> str:
    """Cleans a prompt as Wan does: composed Unicode, resolved HTML entities, collapsed white space.

    Wan also repairs wrongly decoded text with ftfy, which does not change correctly decoded text.
    """
    return " ".join(html.unescape(html.unescape(unicodedata.normalize("NFC", prompt))).split())


class ImageEncoder:
    """Encodes images as the tokens of the second last layer of CLIP's vision transformer.

    Args:
        model: the vision transformer.
        processor: its image processor.
    """

    def __init__(self, model: CLIPVisionModel, processor: BaseImageProcessor) -> None:
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> "ImageEncoder":
        """Loads the components `image_encoder` and `image_processor` of a diffusers folder or hub id.

        Args:
            options: further arguments of the model's `from_pretrained`.

        Raises:
            InputError: a component is missing, damaged or incomplete, or the processor's size is not the encoder's.
        """
        processor = load_component(
            AutoImageProcessor.from_pretrained, source, "image_processor", "image processor", backend="pil"
        )
        model = load_model(
            CLIPVisionModel, source, "image_encoder", "image encoder", device=device, dtype=dtype, **options
        )
        if model.config.num_hidden_layers < 2:
            raise InputError(
                f"image encoder in '{source}' has {model.config.num_hidden_layers} layers; the second last is read: "
                "use Wan's image encoder",
                code=ErrorCode.unsupported,
                field="image encoder",
                value=model.config.num_hidden_layers,
            )
        _check_image_processor(processor, model, str(source))
        return cls(model, processor)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Returns the tokens (I, D) float32 of one RGB `image` (H, W, 3) uint8; I = 257, D = 1280 for Wan's CLIP."""
        assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[2] == 3, "image must be (H, W, 3) uint8"
        pixels = self.processor(images=image.cpu().numpy(), return_tensors="pt", input_data_format="channels_last")
        inputs = pixels["pixel_values"].to(get_module_execution_device(self.model), self.model.dtype)
        return self.model(pixel_values=inputs, output_hidden_states=True).hidden_states[-2][0].float()


def _check_image_processor(processor: BaseImageProcessor, model: CLIPVisionModel, source: str) -> None:
    """Validates that a processor returns images of the encoder's size, and is not asked for larger ones on the way."""
    side = model.config.image_size
    size = getattr(processor, "size", None)
    sizes = {name: value for name, value in dict(size or {}).items() if value is not None}
    try:
        if all(side <= value <= MAX_IMAGE_SIDE for value in sizes.values()):
            image = np.zeros((2, 3, 3), np.uint8)
            pixels = processor(images=image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
            if pixels.shape == (1, 3, side, side) and bool(torch.isfinite(pixels).all()):
                return
    except LOADING_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise _processor_error(f"fails ({reason})", source, side, sizes) from error
    raise _processor_error("returns others", source, side, sizes)


def _processor_error(problem: str, source: str, side: int, sizes: dict[str, int]) -> InputError:
    return InputError(
        f"image processor in '{source}' resizes to {str(sizes)[:80]} and must return {side}x{side} pixels, but "
        f"{problem}; use the processor of the same model",
        code=ErrorCode.conflict,
        field="image processor",
        value=sizes,
    )
