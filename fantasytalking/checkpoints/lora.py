"""Low-rank adaptation of the base's linear layers, by PEFT: put in, taken out, and checked by name and shape."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fantasytalking.common.errors import InputError
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of

PEFT_ADAPTER_NAME = "default"
"""PEFT's own name of the one LoRA that is trained; it does not appear in files."""


@dataclass(frozen=True)
class LoraSpec:
    """What a LoRA is; the update of a layer is alpha / rank times B A."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Ends of the names of the layers."""

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "LoraSpec":
        """From the JSON object of an adapter's config.

        Raises:
            InputError: a key misses, is unknown, or holds a value out of its limits.
        """
        if not isinstance(values, dict) or values.keys() != {"rank", "alpha", "targets"}:
            raise InputError(f"{source}: lora is {values!r}; rank, alpha and targets are needed")
        rank, alpha, targets = values["rank"], values["alpha"], values["targets"]
        fits = type(rank) is int and 1 <= rank <= 1024 and isinstance(alpha, int | float) and 0 < alpha <= 1e5
        fits = fits and isinstance(targets, list) and 0 < len(targets) <= 256
        if not fits or not all(isinstance(target, str) and target for target in targets):
            raise InputError(f"{source}: lora is {values!r}; rank 1 to 1024, alpha above 0 and a list of layer names")
        return cls(rank, float(alpha), tuple(targets))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in an adapter's config."""
        return {**asdict(self), "targets": list(self.targets)}


def add_lora(model: FantasyTalkingTransformer3DModel, spec: LoraSpec, dtype: torch.dtype) -> None:
    """Puts LoRA layers of `dtype` into the model; fresh ones add nothing (B is zero).

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
    """Within it the model is as it was without its LoRA, whose layers are not even computed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    def enable(enabled: bool) -> None:
        for layer in layers:
            trained = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
            layer.enable_adapters(enabled)
            # PEFT freezes what it switches off, and FSDP takes what is frozen at its first call as frozen for good.
            for parameter, trains in trained:
                parameter.requires_grad_(trains)

    enable(False)
    try:
        yield
    finally:
        enable(True)


def fuse_lora(model: FantasyTalkingTransformer3DModel) -> None:
    """Adds the LoRA's update to the weights that it adapts, and takes its layers out."""
    model.fuse_lora()
    model.unload_lora()


def has_lora(model: nn.Module) -> bool:
    """Whether LoRA layers are in the model."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def lora_tensor_shapes(model: nn.Module, spec: LoraSpec) -> dict[str, tuple[int, ...]]:
    """Names (as in files) and shapes of the tensors that a LoRA of these settings has on this model.

    Raises:
        InputError: a target is no linear layer of the base.
    """
    layers = {
        strip_peft_name(name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for target in spec.targets:
        hits = [name for name in layers if name == target or name.endswith(f".{target}")]
        ours = [name for name in hits if adapter_module_of(f"{name}.weight")]
        if not hits or ours:
            reason = f"'{ours[0]}' is a layer of the paper's, which trains whole" if ours else "no linear layer ends so"
            raise InputError(f"LoRA target '{target}': {reason}; name layers of the base, such as attn1.to_q")
        for name in hits:
            shapes[f"{name}.lora_A.weight"] = (spec.rank, layers[name].in_features)
            shapes[f"{name}.lora_B.weight"] = (layers[name].out_features, spec.rank)
    return shapes


def strip_peft_name(name: str) -> str:
    """A parameter's name as it is in files: without what PEFT adds."""
    return name.replace(".base_layer", "").replace(f".{PEFT_ADAPTER_NAME}.", ".")


def lora_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA's part of a model's state, in the names of files."""
    return {strip_peft_name(name): value for name, value in state.items() if ".lora_" in name}
