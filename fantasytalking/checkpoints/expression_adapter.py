"""Adds the expression condition to a model and loads its weights."""

from pathlib import Path

import torch

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_adapter_config
from fantasytalking.checkpoints.released_portrait import open_released_expression, released_expression_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import check_finite, check_shapes
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.expression_projector import expression_tensor_shapes
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


def ensure_expression_modules(model: FantasyTalkingTransformer3DModel, sizes: ExpressionModuleConfig) -> None:
    """Adds new expression modules, whose output is zero, unless the model already has them.

    Raises:
        InputError: the model has expression modules of other sizes.
    """
    has = model.expression_config
    if has is None:
        model.add_expression_modules(sizes)
    elif not has.has_same_sizes(sizes):
        raise InputError(
            f"the model's expression condition has sizes {has.to_dict()}, but {sizes.to_dict()} are required; both "
            "must be equal",
            code=ErrorCode.shape_mismatch,
            field="expression",
            value=has.to_dict(),
        )


def load_expression_adapter(model: FantasyTalkingTransformer3DModel, source: str | Path) -> ExpressionModuleConfig:
    """Loads the model's expression condition, adding it if the model has none.

    Args:
        model: transformer to change.
        source: an adapter folder with the expression module, all modules of which are loaded, or the released
            FantasyPortrait checkpoint (.ckpt, .pt, .pth, or the flat port as .safetensors).

    Returns:
        Sizes of the expression condition.

    Raises:
        InputError: the source is neither, or does not fit the model; no weight is changed then.
    """
    source = Path(source)
    if source.is_dir():
        config = read_adapter_config(source)
        if not has_expression_module(config):
            raise InputError(
                f"adapter '{source}' has the modules {', '.join(config.modules) or 'none'} and no expression; use one "
                "trained with scripts/train_portrait.py",
                code=ErrorCode.not_trained,
                field="modules",
                value=config.modules,
            )
        load_adapter(model, source)
        return ExpressionModuleConfig.from_dict(config.expression, str(source))
    released = open_released_expression(source)
    sizes = released_expression_config(released.shapes, str(source))
    _load_released_tensors(model, sizes, released)
    return sizes


def has_expression_module(config: AdapterConfig) -> bool:
    """Whether an adapter has an expression condition."""
    return config.expression is not None


def _load_released_tensors(
    model: FantasyTalkingTransformer3DModel, sizes: ExpressionModuleConfig, released: LazyTensors
) -> None:
    expected = expression_tensor_shapes(sizes, len(model.motion_embedder.output.weight), len(model.blocks))
    check_shapes(released.shapes, expected, f"'{released.source}'", "it was made for a model of another size")
    tensors = released.read_all()
    check_finite(tensors, released.source)
    ensure_expression_modules(model, sizes)
    state = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
    model.configure_expression(sizes)
