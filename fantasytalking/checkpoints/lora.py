"""Adds, fuses and validates low-rank adaptations (LoRA, by PEFT) of linear layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel

PEFT_ADAPTER_NAME = "default"
"""PEFT's name of the trained LoRA; it is removed from names in files."""


@dataclass(frozen=True)
class LoraSpec:
    """Settings of a LoRA; the update of a layer is alpha / rank times B A."""

    rank: int
    """Rank of the update, 1 to 1024."""
    alpha: float
    """Scale of the update before division by the rank."""
    targets: tuple[str, ...]
    """Suffixes of the names of the adapted layers."""

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "LoraSpec":
        """Parses the JSON object of an adapter's configuration.

        Raises:
            InputError: a key is missing or unknown, or a value is out of range.
        """
        if not isinstance(values, dict) or values.keys() != {"rank", "alpha", "targets"}:
            raise InputError(
                f"{source}: lora is {values!r}; the keys rank, alpha and targets are required",
                code=ErrorCode.malformed_file,
                field="lora",
                value=values,
            )
        rank, alpha, targets = values["rank"], values["alpha"], values["targets"]
        fits = type(rank) is int and 1 <= rank <= 1024 and type(alpha) in (int, float) and 0 < alpha <= 1e5
        fits = fits and isinstance(targets, list) and 0 < len(targets) <= 256
        if not fits or not all(isinstance(target, str) and target for target in targets):
            raise InputError(
                f"{source}: lora is {values!r}; rank 1 to 1024, alpha above 0 and a list of layer names are required",
                code=ErrorCode.out_of_range,
                field="lora",
                value=values,
            )
        return cls(rank, float(alpha), tuple(targets))

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object for an adapter's configuration."""
        return {**asdict(self), "targets": list(self.targets)}


def add_lora(model: FantasyTalkingTransformer3DModel, spec: LoraSpec, dtype: torch.dtype) -> None:
    """Adds LoRA layers of `dtype` to the model; new layers add nothing (B is zero).

    Raises:
        InputError: as `lora_tensor_shapes`.
    """
    from peft import LoraConfig  # seconds to import, and most models have no LoRA

    lora_tensor_shapes(model, spec)
    peft_config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, target_modules=list(spec.targets), init_lora_weights=True
    )
    model.add_adapter(peft_config, PEFT_ADAPTER_NAME)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(dtype)


@contextmanager
def lora_disabled(model: nn.Module) -> Iterator[None]:
    """Context in which the model's LoRA layers are disabled and not computed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    def enable(enabled: bool) -> None:
        for layer in layers:
            trained = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
            layer.enable_adapters(enabled)
            # PEFT freezes disabled layers, and FSDP treats parameters frozen at its first call as frozen forever.
            for parameter, trains in trained:
                parameter.requires_grad_(trains)

    enable(False)
    try:
        yield
    finally:
        enable(True)


def fuse_lora(model: FantasyTalkingTransformer3DModel) -> None:
    """Adds the LoRA's update to the adapted weights and removes its layers."""
    model.fuse_lora()
    model.unload_lora()


def has_lora(model: nn.Module) -> bool:
    """Whether the model has LoRA layers."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def lora_tensor_shapes(model: nn.Module, spec: LoraSpec) -> dict[str, tuple[int, ...]]:
    """Returns names (as in files) and shapes of the tensors of a LoRA with these settings on this model.

    Raises:
        InputError: a target is no linear layer.
    """
    layers = {
        strip_peft_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for target in spec.targets:
        hits = [name for name in layers if name == target or name.endswith(f".{target}")]
        if not hits:
            raise InputError(
                f"LoRA target '{target}' matches no linear layer; use names such as attn1.to_q or attn2.audio_k_proj",
                code=ErrorCode.unknown_key,
                field="targets",
                value=target,
            )
        for name in hits:
            shapes[f"{name}.lora_A.weight"] = (spec.rank, layers[name].in_features)
            shapes[f"{name}.lora_B.weight"] = (layers[name].out_features, spec.rank)
    return shapes


def strip_peft_name(name: str) -> str:
    """Returns a parameter's name as in files, without PEFT's additions."""
    return name.replace(".base_layer", "").replace(f".{PEFT_ADAPTER_NAME}.", ".")


def lora_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the LoRA tensors of a model's state, under their names in files."""
    return {strip_peft_name(name): value for name, value in state.items() if ".lora_" in name}
