"""Describes and loads adapters wherever they come from: our folders, and the released files and their ports."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fantasytalking.checkpoints.adapter import ADAPTER_FILE, AdapterConfig, load_adapter, read_adapter_config
from fantasytalking.checkpoints.expression_adapter import load_expression_adapter
from fantasytalking.checkpoints.released_audio import from_released_audio, open_released_audio, read_released_audio
from fantasytalking.checkpoints.released_portrait import (
    is_released_portrait,
    open_released_expression,
    released_adapter_config,
)
from fantasytalking.common.tensor_io import check_shapes
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of


@dataclass(frozen=True)
class AdapterFormat:
    """A kind of folder or file that adapters come in. Its functions raise `InputError` where it is malformed."""

    matches: Callable[[Path], bool]
    description: Callable[[Path], AdapterConfig]
    """Reads names and shapes, but no weights."""
    load_into: Callable[[FantasyTalkingTransformer3DModel, Path], list[str]]
    """Returns the loaded modules."""


def describe_adapter(path: str | Path) -> AdapterConfig:
    """Returns the description of an adapter folder, or of a released file, which has none of its own.

    Raises:
        InputError: it is neither, or is malformed.
    """
    return _format_of(Path(path)).description(Path(path))


def load_any_adapter(model: FantasyTalkingTransformer3DModel, path: str | Path) -> list[str]:
    """Loads an adapter folder or a released file into a model.

    Returns:
        The loaded modules.

    Raises:
        InputError: it is neither, or does not fit the model, which is then unchanged.
    """
    return _format_of(Path(path)).load_into(model, Path(path))


def _format_of(path: Path) -> AdapterFormat:
    return next(one for one in ADAPTER_FORMATS if one.matches(path))


def _is_adapter_folder(path: Path) -> bool:
    """Whether a path is an adapter folder, or the weights in one, rather than a file of others."""
    return not path.is_file() or path.name == ADAPTER_FILE


def _load_folder(model: FantasyTalkingTransformer3DModel, path: Path) -> list[str]:
    return load_adapter(model, path).modules


def _describe_released_portrait(path: Path) -> AdapterConfig:
    return released_adapter_config(open_released_expression(path).shapes, str(path))


def _load_released_portrait(model: FantasyTalkingTransformer3DModel, path: Path) -> list[str]:
    load_expression_adapter(model, path)
    return ["expression"]


def _describe_released_audio(path: Path) -> AdapterConfig:
    open_released_audio(path)
    return AdapterConfig(modules=["audio"], audio_window="official")


def _load_released_audio(model: FantasyTalkingTransformer3DModel, path: Path) -> list[str]:
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
    return ["audio"]


ADAPTER_FORMATS = (
    AdapterFormat(_is_adapter_folder, read_adapter_config, _load_folder),
    AdapterFormat(is_released_portrait, _describe_released_portrait, _load_released_portrait),
    AdapterFormat(lambda _: True, _describe_released_audio, _load_released_audio),
)
"""In the order in which they are tried; the last takes any other file and says what it lacks."""
