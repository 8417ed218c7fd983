"""The expression condition added to a model that has none, and set from a file."""

from pathlib import Path

import torch
from torch import Tensor

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_config
from fantasytalking.checkpoints.released_portrait import RELEASED_PADDING, read_released_expression, released_sizes
from fantasytalking.common.errors import InputError
from fantasytalking.common.tensor_io import compare_shapes
from fantasytalking.models.expression_config import ExpressionSizes
from fantasytalking.models.expression_projector import expression_shapes
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


def add_expression(model: FantasyTalkingTransformer3DModel, sizes: ExpressionSizes) -> None:
    """Gives the model fresh expression modules, which add nothing yet; one that has them already keeps its own.

    Raises:
        InputError: it has them in other sizes.
    """
    has = ExpressionSizes.of(model.config)
    if has is None:
        model.add_expression(sizes)
    elif has != sizes:
        raise InputError(
            f"the model's expression condition has the sizes {has.as_json()}, {sizes.as_json()} are asked for; "
            "give both the same"
        )


def load_expression(model: FantasyTalkingTransformer3DModel, source: str | Path) -> ExpressionSizes:
    """Sets the model's expression condition, which is added where there is none; gives its sizes.

    Args:
        source: an adapter folder of ours that holds expression, with whatever else it holds, or the released
            FantasyPortrait checkpoint (.ckpt, .pt, .pth, or the flat port as .safetensors).

    Raises:
        InputError: neither, or it does not fit the model; then no weight was changed.
    """
    source = Path(source)
    if source.is_dir():
        described = read_config(source)
        if not holds_expression_module(described):
            raise InputError(
                f"adapter '{source}' holds {', '.join(described.modules) or 'no module'} and no expression; "
                "give one that scripts/train_portrait.py wrote"
            )
        load_adapter(model, source)
        return ExpressionSizes.read(described.expression, str(source))
    tensors = read_released_expression(source)
    sizes = released_sizes(tensors, str(source))
    _set(model, sizes, tensors, str(source))
    return sizes


def holds_expression_module(described: AdapterConfig) -> bool:
    """Whether an adapter brings an expression condition."""
    return described.expression is not None


def _set(
    model: FantasyTalkingTransformer3DModel, sizes: ExpressionSizes, tensors: dict[str, Tensor], source: str
) -> None:
    wanted = expression_shapes(sizes, len(model.motion_embedder.output.weight), len(model.blocks))
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    compare_shapes(found, wanted, f"'{source}'", "it was made for a model of another size")
    add_expression(model, sizes)
    state = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
    model.register_to_config(expression_padding=RELEASED_PADDING)
