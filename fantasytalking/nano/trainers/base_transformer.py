"""The miniature's base: a Wan image-to-video transformer that knows neither audio nor faces nor motion.

It is trained by the project's own Trainer (configs/nano/base.yaml): the patterns of what trains name the base alone, so
that the paper's modules, which add nothing as long as they are fresh, stay fresh, and what comes out is the base.
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
    """A fresh Wan transformer of the preset's size, which predicts zero before it is trained."""
    torch.manual_seed(seed)
    arguments = transformer_kwargs(config)
    wan = {name: value for name, value in arguments.items() if name not in vars(config.portrait)}
    model = WanTransformer3DModel(**wan)
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def write_fresh_base(config: ModelConfig, seed: int, folder: Path) -> None:
    """Writes the base to be trained as `folder`/transformer, once."""
    if not (folder / TRANSFORMER_FOLDER).is_dir():
        with atomic_write(folder / TRANSFORMER_FOLDER) as temporary:
            build_base(config, seed).save_pretrained(temporary)


def write_trained_base(config: ModelConfig, adapter: Path, components: Path) -> None:
    """Writes the part `transformer` of a components folder from what a run trained of the base, in half precision."""
    model = build_base(config, 0)
    # Wan's files hold this norm, and nothing reads it.
    unread = {name: value for name, value in model.state_dict().items() if "norm_added_q" in name}
    model.load_state_dict(unread | load_file(adapter / BASE_FILE), strict=True)
    to_half_precision(model)
    with atomic_write(components / TRANSFORMER_FOLDER) as temporary:
        model.save_pretrained(temporary)
