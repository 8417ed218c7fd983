"""The VAEs of Wan in a single file: original or diffusers' names, with the widths that the file has."""

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.weight_files import open_weights, without_prefix
from fantasytalking.encoders.single_files.building import axis_sizes, build_from_tensors
from fantasytalking.encoders.vae_config import PUBLISHED_VAES

NESTED_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)")
"""Original name of a tensor in the residual blocks of Wan 2.2's VAE."""
_RESIDUAL_PARTS = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_PREFIXES = ("model.", "vae.", "first_stage_model.")
"""What other programs put before all names."""
_REQUIREMENT = "Wan2.1_VAE.pth or Wan2.2_VAE.pth, or a repack of one"


def load_vae_file(path: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """Loads a VAE from Wan2.1_VAE.pth or Wan2.2_VAE.pth, a repack of one, or a pruned one of the same layers.

    The statistics of the latents are not in the files: they are those that are published for the number of channels.

    Args:
        path: a file of `WEIGHT_SUFFIXES`.
        dtype: dtype of the weights.

    Raises:
        InputError: the file cannot be read, is another model, or has tensors too few or too many.
    """
    config, tensors = open_vae_file(path)
    return build_from_tensors(lambda: AutoencoderKLWan(**config), tensors, dtype, "VAE")


def open_vae_file(path: Path) -> tuple[dict[str, Any], LazyTensors]:
    """Returns the configuration that follows from the shapes in a file, and its tensors in diffusers' names.

    Raises:
        InputError: the file cannot be read or is another model.
    """
    tensors = _open(path)
    width = axis_sizes(tensors, "encoder.conv_in.weight", 5, _REQUIREMENT)[0]
    decoder_width = axis_sizes(tensors, "decoder.norm_out.gamma", 4, _REQUIREMENT)[0]
    config = PUBLISHED_VAES[_latent_channels(tensors)] | {"base_dim": width, "decoder_base_dim": decoder_width}
    return config, tensors


def read_vae_channels(path: Path) -> int:
    """Returns the latent channels of a VAE in a single file.

    Raises:
        InputError: the file cannot be read or is another model.
    """
    return _latent_channels(_open(path))


def _open(path: Path) -> LazyTensors:
    tensors = without_prefix(open_weights(path), _PREFIXES)
    return _with_diffusers_names(tensors) if "encoder.conv1.weight" in tensors.shapes else tensors


def _latent_channels(tensors: LazyTensors) -> int:
    channels = axis_sizes(tensors, "post_quant_conv.weight", 5, _REQUIREMENT)[0]
    if channels not in PUBLISHED_VAES:
        raise InputError(
            f"VAE '{tensors.source}' has {channels} latent channels; {' or '.join(map(str, PUBLISHED_VAES))} are "
            f"required: it must be {_REQUIREMENT}",
            code=ErrorCode.shape_mismatch,
            field="post_quant_conv.weight",
            value=channels,
        )
    return channels


def _with_diffusers_names(tensors: LazyTensors) -> LazyTensors:
    nested = {name: found for name in tensors.shapes if (found := NESTED_BLOCK.fullmatch(name)) is not None}
    others = convert_wan_vae_to_diffusers({name: name for name in tensors.shapes if name not in nested})
    return tensors.renamed(others | {_residual_name(*found.groups()): name for name, found in nested.items()})


def _residual_name(half: str, block: str, number: str, rest: str) -> str:
    """Returns the diffusers name of a tensor in a residual block of Wan 2.2's VAE."""
    blocks, sampler = ("down_blocks", "downsampler") if half == "encoder" else ("up_blocks", "upsampler")
    part, _, leaf = rest.rpartition(".")
    if part in _RESIDUAL_PARTS:
        return f"{half}.{blocks}.{block}.resnets.{number}.{_RESIDUAL_PARTS[part]}.{leaf}"
    return f"{half}.{blocks}.{block}.{sampler}.{rest}"
