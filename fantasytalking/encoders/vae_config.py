"""Validates the configuration of a VAE: strides and the statistics of its latents."""

import math
from collections.abc import Mapping
from typing import Any

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.latent_geometry import check_stride


def check_vae_config(config: Mapping[str, Any], source: str) -> None:
    """Validates what is computed from a VAE's configuration, besides its layers.

    Raises:
        InputError: a stride is out of range, or `latents_mean` or `latents_std` is not one finite number per channel,
            or a deviation is not above 0.
    """
    for name in ("scale_factor_temporal", "scale_factor_spatial"):
        check_stride(config[name], name, f"VAE in '{source}'")
    patch = config["patch_size"]
    if patch is not None:
        check_stride(patch, "patch_size", f"VAE in '{source}'")
    channels = config["z_dim"]
    for name, low in (("latents_mean", -math.inf), ("latents_std", 0.0)):
        values = config[name]
        fits = isinstance(values, list | tuple) and len(values) == channels
        if not fits or not all(type(value) in (int, float) and low < value < math.inf for value in values):
            requirement = "above 0" if low == 0 else "each"
            raise InputError(
                f"VAE in '{source}': {name} is {str(values)[:80]}; {channels} finite numbers {requirement} are needed: "
                "get the folder again",
                code=ErrorCode.malformed_file,
                field=name,
                value=values,
            )
