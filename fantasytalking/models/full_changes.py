"""Changes of whole parameters that belong to a LoRA: of norms, biases and modulation, which have no low-rank layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fantasytalking.models.lora_schedule import LoraSchedule


@dataclass
class _Book:
    """Which adapters change which parameters, and the values before any change."""

    changes: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By adapter and parameter."""
    originals: dict[str, Tensor] = field(default_factory=dict)
    """By parameter."""
    fused: dict[str, dict[str, float]] = field(default_factory=dict)
    """Factors of fused adapters, by adapter and parameter; they hold when the adapter's layers are removed."""


class FullChanges:
    """Applies the full changes of LoRA adapters wherever their low-rank layers are applied, with the same weights.

    A mixin that precedes a diffusers model with PEFT adapters. Its methods do what they do in diffusers, then the
    parameters are computed anew from their original values, so that removing an adapter restores them exactly.
    """

    lora_schedule: LoraSchedule | None = None
    """Strength of the adapters step by step; None: they are constant."""

    @property
    def has_full_changes(self) -> bool:
        """Whether an adapter changes whole parameters."""
        return bool(self._book().changes)

    def add_full_changes(self, adapter_name: str, changes: Mapping[str, Tensor]) -> None:
        """Adds the changes of an adapter, by parameter name; they replace those that it had."""
        book, parameters = self._book(), _parameters_by_name(self)
        for name in changes.keys() - book.originals.keys():
            book.originals[name] = parameters[name].detach().cpu().clone()
        book.changes[adapter_name] = dict(changes)
        if not changes:
            del book.changes[adapter_name]
        self.apply_full_changes()

    @torch.no_grad()
    def apply_full_changes(self) -> None:
        """Computes the changed parameters for the adapters that are active or fused now."""
        book = self._book()
        if not book.originals:
            return
        self._remove_deleted(book)
        factors = {adapter: _factors(self, adapter, names, book.fused) for adapter, names in book.changes.items()}
        parameters = _parameters_by_name(self)
        for name, original in book.originals.items():
            value = original.float()
            for adapter, changes in book.changes.items():
                if name in changes and factors[adapter][name]:
                    value = value + factors[adapter][name] * changes[name].float()
            parameters[name].copy_(value)  # exact where nothing was added
        if not book.changes:
            book.originals.clear()

    def set_adapters(self, *args: Any, **kwargs: Any) -> None:
        super().set_adapters(*args, **kwargs)  # type: ignore[misc]
        self.apply_full_changes()

    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        super().set_adapter(*args, **kwargs)  # type: ignore[misc]
        self.apply_full_changes()

    def disable_adapters(self) -> None:
        super().disable_adapters()  # type: ignore[misc]
        self.apply_full_changes()

    def enable_adapters(self) -> None:
        super().enable_adapters()  # type: ignore[misc]
        self.apply_full_changes()

    def disable_lora(self) -> None:
        super().disable_lora()  # type: ignore[misc]
        self.apply_full_changes()

    def enable_lora(self) -> None:
        super().enable_lora()  # type: ignore[misc]
        self.apply_full_changes()

    def delete_adapters(self, *args: Any, **kwargs: Any) -> None:
        super().delete_adapters(*args, **kwargs)  # type: ignore[misc]
        self.apply_full_changes()

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        super().fuse_lora(*args, **kwargs)  # type: ignore[misc]
        self.apply_full_changes()

    def unfuse_lora(self) -> None:
        super().unfuse_lora()  # type: ignore[misc]
        self.apply_full_changes()

    def unload_lora(self) -> None:
        super().unload_lora()  # type: ignore[misc]
        self.apply_full_changes()

    def _book(self) -> _Book:
        return self.__dict__.setdefault("_full_change_book", _Book())

    def _remove_deleted(self, book: _Book) -> None:
        """Forgets the adapters whose layers were removed. What was fused has become part of the parameters."""
        for adapter in book.changes.keys() - getattr(self, "peft_config", {}).keys():
            changes, fused = book.changes.pop(adapter), book.fused.pop(adapter, {})
            for name, factor in fused.items():
                original = book.originals[name]
                book.originals[name] = (original.float() + factor * changes[name].float()).to(original.dtype)


def _parameters_by_name(model: Any) -> dict[str, nn.Parameter]:
    """Parameters under their names without PEFT's layers, which wrap those of the base."""
    return {name.replace(".base_layer", ""): value for name, value in model.named_parameters() if ".lora_" not in name}


def _factors(
    model: Any, adapter: str, names: Mapping[str, Tensor], fused: dict[str, dict[str, float]]
) -> dict[str, float]:
    """Weight of an adapter in each of the parameters `names`: that of its first low-rank layer in the same block.

    A fused adapter keeps the weight that it was fused with, and is noted in `fused`.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if adapter in getattr(layer, "scaling", ())]
    if any(adapter in layer.merged_adapters for _, layer in layers):
        if adapter not in fused:
            fused[adapter] = {name: _nearest(layers, name).scaling[adapter] for name in names}
        return fused[adapter]
    fused.pop(adapter, None)
    active = {name: _nearest(layers, name) for name in names}
    return {
        name: layer.scaling[adapter] if adapter in layer.active_adapters and not layer.disable_adapters else 0.0
        for name, layer in active.items()
    }


def _nearest(layers: list[tuple[str, Any]], parameter: str) -> Any:
    block = ".".join(parameter.split(".")[:2]) + "."  # blocks.N.
    return next((layer for name, layer in layers if name.startswith(block)), layers[0][1])
