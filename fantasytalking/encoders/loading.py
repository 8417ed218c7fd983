"""Loads components of a diffusers folder or hub repository strictly."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import HUB_ID, local_folder, resolve_local
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.model_folder import check_model_folder, weights_bounded_by_files

ATTENTION_IMPLEMENTATION = "sdpa"
"""Attention of transformers' models that have it, eager of the others; without a name, their configuration could ask
for a kernel of the hub."""
DOWNLOADED_FILES = ("*.json", "*.model", "*.safetensors", "*.txt")
"""Files of a component that are downloaded: configuration, vocabulary and weights, but no pickles and no code."""

LOADING_ERRORS = (
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, SafetensorError),
    *(ImportError, ArithmeticError, AssertionError, MemoryError, NameError, StrictDataclassError),
)
"""Errors of libraries for a malformed configuration, which fails in many ways before a model is built from it."""

ModelT = TypeVar("ModelT", bound=nn.Module)
ComponentT = TypeVar("ComponentT")


def load_model(
    model_class: type[ModelT],
    source: str | Path,
    subfolder: str,
    component_name: str,
    allowed_missing: Sequence[str] = (),
    device: torch.device | str | None = "cpu",
    **options: Any,
) -> ModelT:
    """Loads a model from safetensors, in evaluation mode and without gradients.

    Args:
        model_class: a diffusers or transformers class with `from_pretrained`.
        source: a diffusers folder, or a hub id such as Wan-AI/Wan2.1-I2V-14B-480P-Diffusers.
        subfolder: the component within `source`; "" if `source` is the component itself.
        component_name: name of the component in messages ("VAE").
        allowed_missing: patterns of the only weights that may be missing.
        device: the device of the model; None leaves it where `from_pretrained` puts it.
        options: further arguments of `from_pretrained`.

    Raises:
        InputError: the component is missing, cannot be read, or lacks weights of the model.
    """
    if issubclass(model_class, PreTrainedModel):
        has_sdpa = getattr(model_class, "_supports_sdpa", False)  # WavLM's attention has a bias of its own
        options["attn_implementation"] = ATTENTION_IMPLEMENTATION if has_sdpa else "eager"
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
            f"{len(report['mismatched_keys'])} of another shape ({wrong[0]}); {_download_hint(source)}",
            code=ErrorCode.shape_mismatch,
            field=component_name,
            value=wrong[0],
        )
    model = model if device is None else model.to(device)
    return model.eval().requires_grad_(False)


def load_component(
    from_pretrained: Callable[..., ComponentT], source: str | Path, subfolder: str, component_name: str, **options: Any
) -> ComponentT:
    """Calls `from_pretrained` on a component of `source`, a folder or hub id, with one-line errors.

    A hub id is first searched in checkpoints/NAME, and only in the local cache if HF_HUB_OFFLINE is set. The folder's
    configurations are checked first, and no code of a model is run.

    Raises:
        InputError: the component is missing, cannot be read, or asks for code of its own or a larger model than its
            files hold.
    """
    source = resolve_local(source)
    owner = getattr(from_pretrained, "__self__", None)
    if str(getattr(owner, "__module__", "")).startswith("transformers."):
        options["trust_remote_code"] = False  # without it, transformers asks on standard input
    try:
        local = _checked_source(source, subfolder, component_name)
        folder = local / subfolder
        with weights_bounded_by_files(folder, component_name):
            return from_pretrained(str(local), **({"subfolder": subfolder} if subfolder else {}), **options)
    except InputError:
        raise
    except Exception as error:
        # The tokenizers library raises plain exceptions for a vocabulary that it cannot read.
        if type(error) is not Exception and not isinstance(error, LOADING_ERRORS):
            raise
        raise _loading_error(error, source, subfolder, component_name) from error


def read_component_json(source: str | Path, subfolder: str, file: str, component_name: str) -> dict[str, Any]:
    """Returns a JSON file of a component of `source`, a folder or hub id, whose configurations are checked first.

    Raises:
        InputError: the component or the file is missing or malformed.
    """
    source = resolve_local(source)
    try:
        path = _checked_source(source, subfolder, component_name) / subfolder / file
    except InputError:
        raise
    except LOADING_ERRORS as error:
        raise _loading_error(error, source, subfolder, component_name) from error
    if not path.is_file():
        raise InputError(
            f"{component_name}: '{_location(source, subfolder)}' has no {file}; {_download_hint(source)}",
            code=ErrorCode.missing_weights,
            field=component_name,
            value=_location(source, subfolder),
        )
    return read_json(path)


def _checked_source(source: str | Path, subfolder: str, component_name: str) -> Path:
    """Returns the folder of `source`, downloaded if it is a hub id, once the component's configurations are checked."""
    if not Path(source).is_dir() and not HUB_ID.fullmatch(str(source)):
        raise InputError(
            f"{component_name}: the folder '{source}' does not exist; {_download_hint(source)}",
            code=ErrorCode.missing_weights,
            field=component_name,
            value=str(source),
        )
    if Path(source).is_dir() and not (Path(source) / subfolder).is_dir():
        raise InputError(
            f"{component_name}: '{source}' has no folder '{subfolder}'; {_download_hint(source)}",
            code=ErrorCode.missing_weights,
            field=component_name,
            value=subfolder,
        )
    local = Path(source) if Path(source).is_dir() else _download(str(source), subfolder)
    check_model_folder(local / subfolder, component_name)
    return local


def _loading_error(error: Exception, source: str | Path, subfolder: str, component_name: str) -> InputError:
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return InputError(
        f"{component_name} in '{_location(source, subfolder)}' cannot be loaded ({reason}); {_download_hint(source)}",
        code=ErrorCode.missing_weights,
        field=component_name,
        value=_location(source, subfolder),
    )


def _download(hub_id: str, subfolder: str) -> Path:
    """Returns the hub's local snapshot that has the component."""
    prefix = f"{subfolder}/" if subfolder else ""
    return Path(
        snapshot_download(
            hub_id,
            allow_patterns=[prefix + pattern for pattern in DOWNLOADED_FILES],
            ignore_patterns=None if subfolder else ["*/*"],
        )
    )


def onload_module(module: nn.Module) -> None:
    """Moves offloaded weights to their device, for a module that is not called through its `forward`."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)


def _location(source: str | Path, subfolder: str) -> str:
    return f"{source}/{subfolder}" if subfolder else str(source)


def _download_hint(source: str | Path) -> str:
    if HUB_ID.fullmatch(str(source)) and not Path(source).exists():
        return f"download it with: hf download {source} --local-dir {local_folder(str(source))}"
    return f"download it with: hf download ID --local-dir {source}"
