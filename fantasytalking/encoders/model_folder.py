"""Checks a model folder of others before transformers or diffusers read it: no code, bounded configurations."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_CONFIG_NUMBER, MAX_MODEL_CONFIG_BYTES
from fantasytalking.common.text_files import read_json

CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "use_kernels", "kernel_config")
"""Configuration keys that name Python code or compiled kernels to load."""
KERNEL_KEY_ENDING = "_implementation"
"""Ending of the keys that name an implementation of attention or experts; with a slash, a kernel of the hub."""
QUANTIZATION_METHODS = ("bitsandbytes", "quanto", "torchao")
"""Libraries whose quantized models are loaded; transformers downloads kernels for some of the others."""
SIZED_CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json")
"""Configurations from which arrays and weights are built."""
LOWEST_NUMBERS = {"num_": 0, "relative_attention_": 1}
"""Smallest numbers of keys that begin so; others may be negative."""
REDIRECTING_FILE = "adapter_config.json"
"""A file for which transformers loads another model, the one that it names, in place of the folder's."""
WEIGHTS_PER_BYTE = 4
"""Most weights that a model may have per byte of its files: two for 4-bit weights, each registered twice."""
PARAMETERS_PER_TENSOR = 4
"""Most times that a parameter is registered: when it is built, normalized, loaded and tied."""
FREE_WEIGHTS, FREE_PARAMETERS = 1 << 24, 1 << 10
"""Number of weights and of parameters that any model may have."""


def check_model_folder(folder: Path, component_name: str) -> None:
    """Validates the configurations of one component before a library reads them.

    Raises:
        InputError: an entry is neither a file nor a folder; a configuration is malformed, names code or kernels, is
            quantized by another method than `QUANTIZATION_METHODS`, or has a number that is out of range.
    """
    for path in sorted(folder.iterdir()):
        if path.name == REDIRECTING_FILE:
            raise _refuse(
                path, component_name, REDIRECTING_FILE, "names another model to load", "merge it into its model first"
            )
        if path.exists() and not path.is_file() and not path.is_dir():
            raise _refuse(path, component_name, path.name, "is a pipe or a device", "replace it by a file")
        if path.suffix == ".json" and "config" in path.name and path.is_file():
            _check_configuration(path, component_name)


@contextmanager
def weights_bounded_by_files(folder: Path, component_name: str) -> Iterator[None]:
    """Context in which this thread can build models of about the size of the folder's safetensors only.

    A configuration can describe any number of layers of any width; it ends here with the first parameter that its
    files cannot hold.

    Raises:
        InputError: the model has more weights.
    """
    stored, tensors = _stored_size(folder)
    weights_left = WEIGHTS_PER_BYTE * stored + FREE_WEIGHTS
    parameters_left = PARAMETERS_PER_TENSOR * tensors + FREE_PARAMETERS
    thread = get_ident()

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal weights_left, parameters_left
        if get_ident() != thread or parameter is None:
            return
        weights_left -= parameter.numel()
        parameters_left -= 1
        if min(weights_left, parameters_left) < 0:
            raise InputError(
                f"{component_name} in '{folder}': config.json describes a larger model than its {tensors} stored "
                f"tensors of {stored} bytes ({type(module).__name__}.{name} has {parameter.numel()} values); get the "
                "folder again",
                code=ErrorCode.shape_mismatch,
                field=component_name,
                value=tuple(parameter.shape),
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _stored_size(folder: Path) -> tuple[int, int]:
    """Returns bytes and number of tensors of the folder's safetensors; loading reports damaged ones."""
    stored = tensors = 0
    for path in folder.glob("*.safetensors"):
        stored += path.stat().st_size
        try:
            with safe_open(path, framework="pt") as file:
                tensors += len(file.keys())
        except (SafetensorError, OSError):
            continue
    return stored, tensors


def _check_configuration(path: Path, component_name: str) -> None:
    if path.stat().st_size > MAX_MODEL_CONFIG_BYTES:
        raise _refuse(
            path,
            component_name,
            path.name,
            f"has {path.stat().st_size} bytes",
            f"a configuration has at most {MAX_MODEL_CONFIG_BYTES}; get the folder again",
        )
    values = read_json(path)
    for key, value in _walk("", values):
        name = key.rpartition(".")[2]
        is_kernel = name.endswith(KERNEL_KEY_ENDING) and isinstance(value, str) and "/" in value
        if is_kernel or (name in CODE_KEYS and value not in (None, False)):
            what = f"a kernel of the hub, '{value}'" if is_kernel else "Python code of its own"
            raise _refuse(
                path, component_name, key, f"asks for {what} ({key})", "code of a model is never run; remove the entry"
            )
        lowest = next((low for start, low in LOWEST_NUMBERS.items() if name.startswith(start)), -MAX_CONFIG_NUMBER)
        out_of_range = isinstance(value, int | float) and not lowest <= value <= MAX_CONFIG_NUMBER
        if path.name in SIZED_CONFIGS and out_of_range:
            raise _refuse(
                path,
                component_name,
                key,
                f"{key} is {value if isinstance(value, float) else f'{value:.3g}' if abs(value) < 1e300 else 'huge'}",
                f"numbers are from {lowest} to {MAX_CONFIG_NUMBER}; get the folder again",
            )
    _check_quantization(path, component_name, values)


def _check_quantization(path: Path, component_name: str, values: dict[str, Any]) -> None:
    settings = values.get("quantization_config")
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    if method not in QUANTIZATION_METHODS:
        raise _refuse(
            path,
            component_name,
            "quantization_config",
            f"is quantized by {method!r}",
            f"{', '.join(QUANTIZATION_METHODS)} are read; use the model without quantization",
        )


def _walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and value of every entry."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        name = f"{prefix}.{key}" if prefix else str(key)
        yield name, item
        yield from _walk(name, item)


def _refuse(path: Path, component_name: str, field: str, problem: str, cure: str) -> InputError:
    return InputError(
        f"{component_name}: '{path}' {problem}; {cure}", code=ErrorCode.unsupported, field=field, value=str(path)
    )
