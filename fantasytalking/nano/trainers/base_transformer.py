"""Nano's base: a Wan image-to-video transformer without audio, face or motion conditions.

It is trained by the project's Trainer (configs/nano/base.yaml). The patterns of trainable parameters match the base
only, so that the paper's modules stay in their initial state, in which they add nothing.
"""

from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from fantasytalking.checkpoints.adapter import BASE_FILE
from fantasytalking.common.files import atomic_write
from fantasytalking.models.presets import ModelConfig, transformer_kwargs
from fantasytalking.nano.half_precision import to_half_precision

TRANSFORMER_FOLDER = "transformer"


def build_base(config: ModelConfig, seed: int) -> WanTransformer3DModel:
    """Returns an untrained Wan transformer of the preset's size, whose prediction is zero."""
    torch.manual_seed(seed)
    arguments = transformer_kwargs(config)
    wan = {name: value for name, value in arguments.items() if name not in vars(config.portrait)}
    model = WanTransformer3DModel(**wan)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def write_fresh_base(config: ModelConfig, seed: int, folder: Path) -> None:
    """Writes the untrained base to `folder`/transformer, unless it exists."""
    if not (folder / TRANSFORMER_FOLDER).is_dir():
        with atomic_write(folder / TRANSFORMER_FOLDER) as temporary:
            build_base(config, seed).save_pretrained(temporary)


def write_trained_base(config: ModelConfig, adapter: Path, components: Path) -> None:
    """Writes the component `transformer` from the base weights of a training run's adapter, in half precision."""
    model = build_base(config, 0)
    # Wan's checkpoints contain this norm, but no code uses it.
    unused = {name: value for name, value in model.state_dict().items() if "norm_added_q" in name}
    model.load_state_dict(unused | load_file(adapter / BASE_FILE), strict=True)
    to_half_precision(model)
    with atomic_write(components / TRANSFORMER_FOLDER) as temporary:
        model.save_pretrained(temporary)
