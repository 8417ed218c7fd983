"""The expression condition added to a model that has none, and set from a file."""

from pathlib import Path

import torch
from torch import Tensor

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_adapter_config
from fantasytalking.checkpoints.released_portrait import (
    RELEASED_PADDING_MODE,
    read_released_expression,
    released_expression_config,
)
from fantasytalking.common.errors import InputError
from fantasytalking.common.tensor_io import check_shapes
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.expression_projector import expression_tensor_shapes
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


def ensure_expression_modules(model: FantasyTalkingTransformer3DModel, sizes: ExpressionModuleConfig) -> None:
    """Gives the model fresh expression modules, which add nothing yet; one that has them already keeps its own.

    Raises:
        InputError: it has them in other sizes.
    """
    has = ExpressionModuleConfig.from_transformer_config(model.config)
    if has is None:
        model.add_expression_modules(sizes)
    elif has != sizes:
        raise InputError(
            f"the model's expression condition has the sizes {has.to_dict()}, {sizes.to_dict()} are asked for; "
            "give both the same"
        )


def load_expression_adapter(model: FantasyTalkingTransformer3DModel, source: str | Path) -> ExpressionModuleConfig:
    """Sets the model's expression condition, which is added where there is none; gives its sizes.

    Args:
        source: an adapter folder of ours that holds expression, with whatever else it holds, or the released
            FantasyPortrait checkpoint (.ckpt, .pt, .pth, or the flat port as .safetensors).

    Raises:
        InputError: neither, or it does not fit the model; then no weight was changed.
    """
    source = Path(source)
    if source.is_dir():
        described = read_adapter_config(source)
        if not has_expression_module(described):
            raise InputError(
                f"adapter '{source}' holds {', '.join(described.modules) or 'no module'} and no expression; "
                "give one that the portrait stage wrote"
            )
        load_adapter(model, source)
        return ExpressionModuleConfig.from_dict(described.expression, str(source))
    tensors = read_released_expression(source)
    sizes = released_expression_config(tensors, str(source))
    _load_released_tensors(model, sizes, tensors, str(source))
    return sizes


def has_expression_module(config: AdapterConfig) -> bool:
    """Whether an adapter brings an expression condition."""
    return config.expression is not None


def _load_released_tensors(
    model: FantasyTalkingTransformer3DModel, sizes: ExpressionModuleConfig, tensors: dict[str, Tensor], source: str
) -> None:
    wanted = expression_tensor_shapes(sizes, len(model.motion_embedder.output.weight), len(model.blocks))
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    check_shapes(found, wanted, f"'{source}'", "it was made for a model of another size")
    ensure_expression_modules(model, sizes)
    state = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
    model.register_to_config(expression_padding=RELEASED_PADDING_MODE)
