"""One strict way to open a part of a diffusers folder or of a hub repository."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from fantasytalking.common.errors import InputError
from fantasytalking.common.hub import HUB_ID, local_folder, resolve_local

# A configuration that holds anything at all fails in many ways before a model is made of it.
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, SafetensorError)

ModelT = TypeVar("ModelT", bound=nn.Module)
ComponentT = TypeVar("ComponentT")


def load_model(
    model_class: type[ModelT],
    source: str | Path,
    subfolder: str,
    component_name: str,
    allowed_missing: Sequence[str] = (),
    device: torch.device | str = "cpu",
    **options: Any,
) -> ModelT:
    """A model from the folder or hub id `source`, in evaluation mode and without gradients; safetensors only.

    Args:
        model_class: a diffusers or transformers class that has `from_pretrained`.
        source: a diffusers folder, or a hub id such as Wan-AI/Wan2.1-I2V-14B-480P-Diffusers.
        subfolder: the part inside `source`; "" when `source` is the part itself.
        component_name: names the part in messages ("VAE").
        allowed_missing: patterns of the only weights that the file may lack.

    Raises:
        InputError: there is no such part, it cannot be read, or it lacks weights of the model.
    """
    loaded = load_component(
        model_class.from_pretrained,  # type: ignore[attr-defined]
        source,
        subfolder,
        component_name,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    model, report = loaded
    missing = [
        key for key in report["missing_keys"] if not any(re.fullmatch(pattern, key) for pattern in allowed_missing)
    ]
    if missing or report["mismatched_keys"]:
        wrong = sorted(missing)[:1] or [str(key) for key in report["mismatched_keys"]][:1]
        raise InputError(
            f"{component_name} in '{_location(source, subfolder)}' lacks {len(missing)} weights and has "
            f"{len(report['mismatched_keys'])} of another shape ({wrong[0]}); {_download_hint(source)}"
        )
    return model.to(device).eval().requires_grad_(False)


def load_component(
    from_pretrained: Callable[..., ComponentT], source: str | Path, subfolder: str, component_name: str, **options: Any
) -> ComponentT:
    """What `from_pretrained` makes of a part of `source` (a folder or a hub id), its errors told in one line.

    A hub id is looked for in checkpoints/NAME, and only in the local cache when HF_HUB_OFFLINE is set.

    Raises:
        InputError: there is no such part or it cannot be read.
    """
    source = resolve_local(source)
    if not Path(source).is_dir() and not HUB_ID.fullmatch(str(source)):
        raise InputError(f"{component_name}: the folder '{source}' does not exist; {_download_hint(source)}")
    if Path(source).is_dir() and not (Path(source) / subfolder).is_dir():
        raise InputError(f"{component_name}: there is no folder '{subfolder}' in '{source}'; {_download_hint(source)}")
    try:
        return from_pretrained(str(source), **({"subfolder": subfolder} if subfolder else {}), **options)
    except _LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{component_name} in '{_location(source, subfolder)}' cannot be loaded ({reason}); "
            f"{_download_hint(source)}"
        ) from error


def onload_module(module: nn.Module) -> None:
    """Has offloaded weights brought to their device, for a module that is used otherwise than by its `forward`."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)


def _location(source: str | Path, subfolder: str) -> str:
    return f"{source}/{subfolder}" if subfolder else str(source)


def _download_hint(source: str | Path) -> str:
    if HUB_ID.fullmatch(str(source)) and not Path(source).exists():
        return f"fetch it with: hf download {source} --local-dir {local_folder(str(source))}"
    return f"fetch it with: hf download ID --local-dir {source}"
