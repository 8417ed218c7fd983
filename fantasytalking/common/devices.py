"""The device that computes: an accelerator of PyTorch, or the CPU."""

from typing import Any

import torch

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.process_memory import available_memory

DEVICE_NAMES = ("auto", "cpu", "cuda", "mps", "xpu", "npu")
"""Values of a setting `device`; auto: the accelerator that this PyTorch was built for, or else the CPU."""


def check_device_name(name: str, field: str = "device") -> None:
    """Checks that a setting names a device.

    Raises:
        InputError: it is none of `DEVICE_NAMES`.
    """
    if name not in DEVICE_NAMES:
        raise InputError(
            f"{field} is '{name}'; use {', '.join(DEVICE_NAMES[:-1])} or {DEVICE_NAMES[-1]}",
            code=ErrorCode.invalid_choice,
            field=field,
            value=name,
        )


def resolve_device(name: str, field: str = "device") -> torch.device:
    """Returns the device of a setting.

    Raises:
        InputError: the machine, or this PyTorch, has none of this name.
    """
    found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name not in ("auto", "cpu", found.type):
        raise InputError(
            f"{field} is '{name}', but there is no {name} device that this PyTorch can use; use {field}=cpu or auto, "
            f"which is {found.type} here",
            code=ErrorCode.unsupported,
            field=field,
            value=name,
        )
    return torch.device("cpu") if name == "cpu" else found


def device_name(device: torch.device) -> str:
    """Returns the name of a device as records store it: that of the hardware where PyTorch reports it."""
    find = getattr(_module(device), "get_device_name", None)
    return device.type if find is None else str(find(device))


def total_memory(device: torch.device) -> int:
    """Returns the memory of a device in bytes, used or free: main memory for the CPU and devices that share it."""
    find = getattr(_module(device), "get_device_properties", None)
    return available_memory().total if find is None else int(find(device).total_memory)


def _module(device: torch.device) -> Any:
    """torch.cuda for CUDA, and so on."""
    return getattr(torch, device.type, None)


def synchronize(device: torch.device) -> None:
    """Waits until a device has computed everything; the CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
