"""LoRA methods of the pipeline: those of diffusers, for files of every spelling."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders import WanLoraLoaderMixin
from safetensors import SafetensorError
from torch import Tensor

from fantasytalking.checkpoints.lora_adapter import read_lora_adapter
from fantasytalking.checkpoints.lora_scale import read_peft_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.diffusers_internals import LORA_DOWNLOAD_ARGUMENTS, fetch_lora_file
from fantasytalking.models.guarded_loading import check_safe_serialization
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel


class LoraMethods(WanLoraLoaderMixin):
    """`load_lora_weights` and what goes with it. Adapters are named, weighted, fused and removed as in diffusers."""

    _lora_loadable_modules = ("transformer", "transformer_2")
    transformer: FantasyTalkingTransformer3DModel
    transformer_2: FantasyTalkingTransformer3DModel | None

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Loads a LoRA of the base as an adapter, completely or not at all.

        The names may be those of diffusers, PEFT, kohya, musubi-tuner or ComfyUI. Changes of whole weights, biases and
        modulation (diff, diff_b, diff_m) belong to the adapter too.

        Args:
            pretrained_model_name_or_path_or_dict: a safetensors file, a folder or hub id that has one, or its tensors.
            adapter_name: None: a new name.
            hotswap: whether the adapter `adapter_name` is replaced in place.
            kwargs: `weight_name`, `subfolder`, options of the download, `low_cpu_mem_usage`, and
                `load_into_transformer_2` for the low-noise expert of a base with two, as in diffusers.

        Raises:
            InputError: the file cannot be read, or is not a LoRA for this model; names the tensor.
        """
        transformer = self._lora_transformer(kwargs.pop("load_into_transformer_2", False))
        _check_adapter_name(adapter_name, getattr(transformer, "peft_config", {}), hotswap)
        low_cpu_mem_usage = kwargs.pop("low_cpu_mem_usage", True)
        state, metadata = _read_state(pretrained_model_name_or_path_or_dict, kwargs)
        is_loaded = isinstance(pretrained_model_name_or_path_or_dict, Mapping)
        source = "the LoRA" if is_loaded else str(pretrained_model_name_or_path_or_dict)
        # With diffusers' settings, PEFT scales the layers itself; otherwise the scale is part of the tensors.
        peft_config = read_peft_config(pretrained_model_name_or_path_or_dict) if metadata is None else {}
        adapter = read_lora_adapter(transformer, state, source, peft_config)
        before = set(getattr(transformer, "peft_config", {}))
        transformer.load_lora_adapter(
            adapter.pairs,
            prefix=None,
            adapter_name=adapter_name,
            metadata=metadata,
            _pipeline=self,
            low_cpu_mem_usage=low_cpu_mem_usage,
            hotswap=hotswap,
        )
        (name,) = [adapter_name] if adapter_name is not None else set(transformer.peft_config) - before
        transformer.add_full_changes(name, adapter.changes)

    @classmethod
    def save_lora_weights(cls, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """As in diffusers.

        Raises:
            InputError: the tensors would be pickled, which are never read again.
        """
        check_safe_serialization(safe_serialization)
        super().save_lora_weights(*args, **kwargs)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        super().fuse_lora(*args, **kwargs)
        self._apply_full_changes()

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        super().unfuse_lora(*args, **kwargs)
        self._apply_full_changes()

    def _apply_full_changes(self) -> None:
        for transformer in (self.transformer, self.transformer_2):
            if transformer is not None:
                transformer.apply_full_changes()

    def _lora_transformer(self, is_low_noise: bool) -> FantasyTalkingTransformer3DModel:
        if not is_low_noise:
            return self.transformer
        if self.transformer_2 is None:
            raise InputError(
                "load_into_transformer_2 is True, but this pipeline has no transformer_2; leave it out",
                code=ErrorCode.unsupported,
                field="load_into_transformer_2",
                value=True,
            )
        return self.transformer_2


def _check_adapter_name(name: str | None, known: Mapping[str, Any], hotswap: bool) -> None:
    if hotswap != (name is not None and name in known):
        state = f"is none of the loaded ones ({', '.join(known) or 'none'})" if hotswap else "is in use"
        cure = "name the adapter to replace" if hotswap else "choose another, or replace it with hotswap=True"
        raise InputError(
            f"adapter_name is {name!r}, which {state}; {cure}",
            code=ErrorCode.conflict,
            field="adapter_name",
            value=name,
        )


def check_attention_kwargs(
    transformer: FantasyTalkingTransformer3DModel, attention_kwargs: Mapping[str, Any] | None
) -> None:
    """Checks that the LoRA scale of one call can be followed.

    Raises:
        InputError: an adapter also changes whole parameters, which a call does not scale; or a key is unknown.
    """
    unknown = sorted(set(attention_kwargs or {}) - {"scale"})
    if unknown:
        raise InputError(
            f"attention_kwargs has the key '{unknown[0]}'; only scale, of LoRA layers, is known",
            code=ErrorCode.unknown_key,
            field="attention_kwargs",
            value=unknown[0],
        )
    scale = (attention_kwargs or {}).get("scale", 1.0)
    if scale != 1 and transformer.has_full_changes:
        raise InputError(
            f"attention_kwargs scale is {scale}, but the LoRA also changes whole parameters, which a call does not "
            "scale; use pipe.set_adapters(name, weight)",
            code=ErrorCode.unsupported,
            field="attention_kwargs",
            value=scale,
        )


def _read_state(
    source: str | Path | Mapping[str, Tensor], options: dict[str, Any]
) -> tuple[Mapping[str, Tensor], dict[str, Any] | None]:
    """Tensors of a LoRA, and the settings that diffusers stores in a file."""
    unknown = [name for name in options if name not in LORA_DOWNLOAD_ARGUMENTS]
    weight_name = options.get("weight_name")
    if unknown or (weight_name is not None and not str(weight_name).endswith(".safetensors")):
        field = unknown[0] if unknown else "weight_name"
        known = f"known are {', '.join(LORA_DOWNLOAD_ARGUMENTS)}" if unknown else "a .safetensors file is needed"
        raise InputError(
            f"load_lora_weights: {field}={options[field]!r}; {known}",
            code=ErrorCode.unknown_key if unknown else ErrorCode.unsupported,
            field=field,
            value=options[field],
        )
    if isinstance(source, Mapping):
        return source, None
    try:
        return fetch_lora_file(str(source), options)
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"the LoRA '{source}' cannot be read ({reason}); give a .safetensors file, or a folder or hub id with "
            "weight_name",
            code=ErrorCode.missing_weights,
            field="lora",
            value=str(source),
        ) from error
