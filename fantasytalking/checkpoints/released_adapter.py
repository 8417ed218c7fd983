"""Describes and loads adapters wherever they come from: our folders, and the released files and their ports."""

from pathlib import Path

import torch

from fantasytalking.checkpoints.adapter import (
    ADAPTER_FILE,
    AdapterConfig,
    load_adapter,
    read_adapter_config,
)
from fantasytalking.checkpoints.expression_adapter import load_expression_adapter
from fantasytalking.checkpoints.released_audio import from_released_audio, read_released_audio
from fantasytalking.checkpoints.released_portrait import (
    is_released_portrait,
    read_released_expression,
    released_adapter_config,
)
from fantasytalking.common.tensor_io import check_shapes
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of


def is_released_file(path: Path) -> bool:
    """Whether a path is a file of others rather than an adapter folder, or the weights in one."""
    return path.is_file() and path.name != ADAPTER_FILE


def describe_adapter(path: str | Path) -> AdapterConfig:
    """Returns the description of an adapter folder, or of a released file, which has none of its own.

    Raises:
        InputError: it is neither, or is malformed.
    """
    path = Path(path)
    if not is_released_file(path):
        return read_adapter_config(path)
    if is_released_portrait(path):
        return released_adapter_config(read_released_expression(path), str(path))
    read_released_audio(path)
    return AdapterConfig(modules=["audio"], audio_window="official")


def load_any_adapter(model: FantasyTalkingTransformer3DModel, path: str | Path) -> list[str]:
    """Loads an adapter folder or a released file into a model.

    Returns:
        The loaded modules.

    Raises:
        InputError: it is neither, or does not fit the model, which is then unchanged.
    """
    path = Path(path)
    if not is_released_file(path):
        return load_adapter(model, path).modules
    if is_released_portrait(path):
        load_expression_adapter(model, path)
        return ["expression"]
    _load_released_audio(model, path)
    return ["audio"]


def _load_released_audio(model: FantasyTalkingTransformer3DModel, path: Path) -> None:
    tensors = from_released_audio(read_released_audio(path))
    if (positions := model.audio_projector.positions) is not None:
        # The released model has no positions, which zeros reproduce.
        tensors["audio_projector.positions"] = torch.zeros_like(positions)
    state = model.state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items() if adapter_module_of(name) == "audio"}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    check_shapes(found, expected, f"'{path}'", "it was made for a model of another size")
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
