"""Wan 2.1's VAE in a single file: original or diffusers' names, with the widths that the file has."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.weight_files import open_weights, without_prefix
from fantasytalking.encoders.single_files.building import axis_sizes, build_from_tensors

_PREFIXES = ("model.", "vae.", "first_stage_model.")
"""What other programs put before all names."""
LATENT_CHANNELS = 16
"""Of Wan 2.1; the statistics of its latents are diffusers' defaults."""
_REQUIREMENT = "Wan 2.1's VAE: Wan2.1_VAE.pth or a repack of it"


def load_vae_file(path: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """Loads a VAE from Wan2.1_VAE.pth, a repack of it, or a pruned one of the same layers.

    Args:
        path: a file of `WEIGHT_SUFFIXES`.
        dtype: dtype of the weights.

    Raises:
        InputError: the file cannot be read, is another model, or has tensors too few or too many.
    """
    tensors = without_prefix(open_weights(path), _PREFIXES)
    if "encoder.conv1.weight" in tensors.shapes:
        tensors = _with_diffusers_names(tensors)
    width = axis_sizes(tensors, "encoder.conv_in.weight", 5, _REQUIREMENT)[0]
    decoder_width = axis_sizes(tensors, "decoder.norm_out.gamma", 4, _REQUIREMENT)[0]
    channels = axis_sizes(tensors, "post_quant_conv.weight", 5, _REQUIREMENT)[0]
    if channels != LATENT_CHANNELS:
        raise InputError(
            f"VAE '{path}' has {channels} latent channels; {LATENT_CHANNELS} are required: it must be {_REQUIREMENT}",
            code=ErrorCode.shape_mismatch,
            field="post_quant_conv.weight",
            value=channels,
        )
    return build_from_tensors(
        lambda: AutoencoderKLWan(base_dim=width, decoder_base_dim=decoder_width), tensors, dtype, "VAE"
    )


def _with_diffusers_names(tensors: LazyTensors) -> LazyTensors:
    return tensors.renamed(convert_wan_vae_to_diffusers({name: name for name in tensors.shapes}))
