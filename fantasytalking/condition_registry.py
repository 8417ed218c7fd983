"""Conditions that are added from outside the package, registered by name and built by a model that names them.

A module registers its condition when it is imported. A package names the module as an entry point of the group
`fantasytalking.conditions`, so that every command knows the condition; a script imports it before it builds a model.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_CONFIG_NUMBER
from fantasytalking.common.npy_file import read_npy
from fantasytalking.common.text import shortened
from fantasytalking.condition_specs import CONDITIONS, ConditionSpec, Injection, TensorSpec

ENTRY_POINT_GROUP = "fantasytalking.conditions"
"""Group of entry points, each of which names a module that registers conditions."""
WIDTH = "width"
"""Size that every registered condition has: the width of the vector or of the tokens that its module returns."""
RESERVED_NAMES = frozenset({spec.name for spec in CONDITIONS} | {"base", "lora", "add", "prompt", "reference"})
"""Names of built-in conditions, parts of a model and probabilities of dropping."""

Sizes = Mapping[str, int]
"""Sizes of a condition in the configuration of a model."""


@dataclass(frozen=True)
class RegisteredCondition:
    """A condition that is constant over a clip."""

    name: str
    injection: Injection
    """timestep or cross_attention."""
    axes: tuple[str, ...]
    """Shape of the value of one clip: numbers and keys of `sizes`."""
    sizes: Sizes
    """Default of every size; `width` is one of them."""
    module: Callable[[Sizes], nn.Module]
    """Returns a new module: value (B, *axes) -> vector (B, width) or, for cross_attention, tokens (B, N, width)."""
    read: Callable[[Path], Any]
    """Reads the value of a clip from a file, as an array or a tensor."""
    suffix: str
    """Suffix of such files; that of the video VIDEO.mp4 is VIDEO.NAME + suffix."""

    @property
    def spec(self) -> ConditionSpec:
        """Its entry in the table of conditions."""
        axes = tuple(axis if axis.isdecimal() else f"{self.name}.{axis}" for axis in self.axes)
        tensors = {"value": TensorSpec(axes), "scale": TensorSpec((), per_branch=True)}
        return ConditionSpec(
            self.name,
            self.injection,
            {f"registered.{self.name}.{name}": tensor for name, tensor in tensors.items()},
            module=f"{self.name}_condition",
            dropout=self.name,
        )

    def resolve_sizes(self, sizes: Any, source: str) -> dict[str, int]:
        """Returns all sizes, with defaults for those that are missing.

        Raises:
            InputError: a size is unknown or out of range.
        """
        field = f"conditions.{self.name}"
        if not isinstance(sizes, Mapping) or not sizes.keys() <= self.sizes.keys():
            raise InputError(
                f"{source}: {field} is {shortened(sizes)}; its sizes are {', '.join(self.sizes)}",
                code=ErrorCode.unknown_key,
                field=field,
                value=sizes,
            )
        for name, size in sizes.items():
            if type(size) is not int or not 1 <= size <= MAX_CONFIG_NUMBER:
                raise InputError(
                    f"{source}: {field}.{name} is {shortened(size)}; it must be 1 to {MAX_CONFIG_NUMBER}",
                    code=ErrorCode.out_of_range,
                    field=f"{field}.{name}",
                    value=size,
                )
        return {**self.sizes, **sizes}

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Returns the shape of the value of one clip."""
        return tuple(int(axis) if axis.isdecimal() else sizes[axis] for axis in self.axes)

    def check(self, value: Any, sizes: Sizes, source: str) -> Tensor:
        """Returns the value of one clip as float32 on the CPU.

        Raises:
            InputError: it has another shape or type, or is not finite.
        """
        tensor = torch.as_tensor(value)
        if tensor.shape != self.shape(sizes) or tensor.is_complex():
            raise InputError(
                f"{source}: condition '{self.name}' is {tensor.dtype} of shape {tuple(tensor.shape)}; the model takes "
                f"real numbers of shape {self.shape(sizes)}",
                code=ErrorCode.shape_mismatch,
                field=self.name,
                value=tuple(tensor.shape),
            )
        if not tensor.isfinite().all():
            raise InputError(
                f"{source}: condition '{self.name}' has values that are NaN or infinite; correct them",
                code=ErrorCode.malformed_file,
                field=self.name,
            )
        return tensor.detach().to("cpu", torch.float32)

    def file_beside(self, video: Path) -> Path:
        """Returns the file of a video's value, whether it exists or not."""
        return video.with_suffix(f".{self.name}{self.suffix}")


_REGISTERED: dict[str, RegisteredCondition] = {}


def register_condition(
    name: str,
    *,
    injection: Injection,
    axes: tuple[str, ...],
    sizes: Sizes,
    module: Callable[[Sizes], nn.Module],
    read: Callable[[Path], Any] = read_npy,
    suffix: str = ".npy",
) -> RegisteredCondition:
    """Adds a condition to those that models, training, preparation and inference know.

    The package adds the projections that inject it, whose output is zero until it is trained, and its weights to the
    adapter module `name`.

    Args:
        name: lower-case letters, digits and underscores; key of configurations and files.
        injection: timestep (a vector that is added to the timestep embedding) or cross_attention (tokens that every
            video token attends to).
        axes, sizes, module, read, suffix: as in `RegisteredCondition`.

    Raises:
        InputError: the name is taken.
    """
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name), f"'{name}' is no name of a condition"
    assert injection in (Injection.timestep, Injection.cross_attention), f"{injection} is built in only"
    assert WIDTH in sizes and all(axis.isdecimal() or axis in sizes for axis in axes), "every axis has a size"
    if name in RESERVED_NAMES or name in _REGISTERED:
        raise InputError(
            f"there already is a condition '{name}'; register it under another name",
            code=ErrorCode.conflict,
            field="name",
            value=name,
        )
    _REGISTERED[name] = RegisteredCondition(name, injection, axes, dict(sizes), module, read, suffix)
    return _REGISTERED[name]


def registered_conditions() -> dict[str, RegisteredCondition]:
    """Returns every registered condition by name, those of installed packages included.

    Raises:
        InputError: a module that an installed package names cannot be imported.
    """
    _import_entry_points()
    return dict(_REGISTERED)


def registered_condition(name: str, source: str) -> RegisteredCondition:
    """Returns a registered condition.

    Args:
        source: what names the condition, for messages.

    Raises:
        InputError: there is none of this name.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    known = registered_conditions()
    if name not in known:
        raise InputError(
            f"{source}: no condition '{name}' is registered (registered: {', '.join(known) or 'none'}); install the "
            "package that has it, or import its module first",
            code=ErrorCode.invalid_choice,
            field="conditions",
            value=name,
        )
    return known[name]


def resolve_conditions(values: Any, source: str) -> dict[str, dict[str, int]]:
    """Returns the section `conditions` of a configuration with all sizes; None is an empty one.

    Raises:
        InputError: a condition is not registered, or a size is unknown or out of range.
    """
    if not isinstance(values, Mapping | None):
        raise InputError(
            f"{source}: conditions is {shortened(values)}; it holds sizes by name",
            code=ErrorCode.invalid_type,
            field="conditions",
            value=values,
        )
    return {
        name: registered_condition(name, source).resolve_sizes(sizes, source) for name, sizes in (values or {}).items()
    }


@cache
def _import_entry_points() -> None:
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"'{entry.value}', which registers the condition '{entry.name}', cannot be imported ({error}); install "
                "its package again, or remove it",
                code=ErrorCode.unsupported,
                field=ENTRY_POINT_GROUP,
                value=entry.name,
            ) from error
