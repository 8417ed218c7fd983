"""Reads the geometry of a base from the configurations of its VAE and transformer, before any weights are loaded."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, WanTransformer3DModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.vae_config import PUBLISHED_VAES
from fantasytalking.latent_geometry import LatentGeometry

VAE_CONFIG_FILE = Path("vae", "config.json")
"""Configuration of the VAE in a diffusers folder."""


def read_geometry(
    base: Path, transformer: Mapping[str, Any] | None = None, *, vae_channels: int | None = None
) -> LatentGeometry:
    """Returns strides and patch from the configurations of a base's VAE and transformer.

    Args:
        transformer: configuration of the transformer; None: that in the folder `base`.
        vae_channels: latent channels of a VAE in one file, which is therefore a published one; None: it is in `base`.

    Raises:
        InputError: the base has no VAE configuration, a stride or patch is out of range, or its patches are of another
            kind than Wan's; or the VAE is a file, but not that of the transformer.
    """
    transformer = read_transformer_config(base) if transformer is None else transformer
    defaults = _default_arguments(AutoencoderKLWan)  # files of earlier diffusers lack the strides
    if vae_channels is not None:
        if transformer["out_channels"] != vae_channels:
            raise InputError(
                f"the transformer predicts {transformer['out_channels']} latent channels, but the VAE in one file has "
                f"{vae_channels}; give the VAE of the same base",
                code=ErrorCode.conflict,
                field="components.vae",
                value=transformer["out_channels"],
            )
        return LatentGeometry.from_configs(defaults | PUBLISHED_VAES[vae_channels], transformer)
    path = base / VAE_CONFIG_FILE
    if not path.is_file():
        raise InputError(
            f"'{path}' does not exist; give a diffusers folder that has the VAE: base=FOLDER",
            code=ErrorCode.missing_weights,
            field="base",
            value=str(base),
        )
    return LatentGeometry.from_configs(defaults | read_json(path), transformer)


def read_transformer_config(base: Path) -> dict[str, Any]:
    """Returns the configuration of a base's transformer, with the defaults of keys that it lacks.

    Raises:
        InputError: the file is not valid JSON.
    """
    path = base / "transformer" / "config.json"  # loading reports a missing transformer
    return _default_arguments(WanTransformer3DModel) | (read_json(path) if path.is_file() else {})


def _default_arguments(model_class: type) -> dict[str, Any]:
    parameters = inspect.signature(model_class).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
