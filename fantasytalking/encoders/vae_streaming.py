"""Decodes latent frames with Wan's causal VAE while the video is still being generated."""

from collections.abc import Iterator

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, unpatchify
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.tensor_io import check_finite_result
from fantasytalking.encoders.loading import onload_module


class StreamingVaeDecoder:
    """Decodes one video; the cache of the causal convolutions is stored here between calls, not in the VAE.

    Args:
        vae: the VAE, without tiling.

    Raises:
        InputError: the VAE uses tiling, which needs the whole video.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        if vae.use_tiling:
            raise InputError(
                "the VAE uses tiling, which needs the whole video; disable tiling to stream",
                code=ErrorCode.conflict,
                field="use_tiling",
                value=True,
            )
        self.vae = vae
        self._feature_cache: list[Tensor | str | None] = [None] * sum(
            isinstance(module, WanCausalConv3d) for module in vae.decoder.modules()
        )
        self._num_decoded = 0

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Decodes the next latent frames.

        Args:
            latents: (1, Z, n, h, w) normalized.

        Yields:
            (3, 1, H, W) for the first latent frame of the video, (3, s, H, W) for every other, in [-1, 1], float32; s
            is the temporal stride.
        """
        onload_module(self.vae)
        config, device = self.vae.config, get_module_execution_device(self.vae)
        mean, std = (
            torch.tensor(config[f"latents_{name}"], device=device).view(1, -1, 1, 1, 1) for name in ("mean", "std")
        )
        check_finite_result(latents, "latents")
        for frame in latents.split(1, dim=2):
            scaled = (frame.to(device, torch.float32) * std + mean).to(self.vae.dtype)
            pixels = self.vae.decoder(
                self.vae.post_quant_conv(scaled),
                feat_cache=self._feature_cache,
                feat_idx=[0],
                first_chunk=self._num_decoded == 0,
            )
            self._num_decoded += 1
            check_finite_result(pixels, "pixels")
            yield unpatchify(pixels, config["patch_size"] or 1)[0].clamp(-1, 1).float()
