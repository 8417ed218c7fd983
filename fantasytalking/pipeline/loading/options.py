"""Options of `FantasyTalkingPipeline.from_pretrained`: those of diffusers, validated before anything is loaded."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import PipelineQuantizationConfig

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.diffusers_internals import component_quantization, supported_device_maps

MODEL_COMPONENTS = ("vae", "text_encoder", "image_encoder", "audio_encoder", "transformer", "transformer_2")
"""Components that are torch modules, in the order of loading."""
FLOAT32_COMPONENTS = ("vae", "audio_encoder")
"""Components that stay in float32 unless a dtype is given by their name or as the default of all."""
WEIGHTS_FILE = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[^.]+?))?(?:-\d{5}-of-\d{5})?\.safetensors"
)
"""Name of a file of weights, with the variant in it."""

Dtypes = torch.dtype | Mapping[str, torch.dtype]


@dataclass(frozen=True)
class LoadingOptions:
    """How the components of a saved pipeline are loaded."""

    dtype: Dtypes | None = None
    """Of transformers, text and image encoder; VAE and audio encoder stay in float32. Or by component, `default` for
    all others."""
    torch_dtype: Dtypes | None = None
    """The same, as diffusers called it earlier."""
    variant: str | None = None
    """Variant of the weights, such as fp16."""
    quantization_config: PipelineQuantizationConfig | None = None
    """Components that are quantized as they are loaded."""
    device_map: str | None = None
    """Device to load to."""
    low_cpu_mem_usage: bool | None = None
    """True or None: weights are assigned without initializing the model first."""
    use_safetensors: bool | None = None
    """True or None; pickles are never read."""
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False
    token: str | bool | None = None
    revision: str | None = None
    """Of the download of a hub id, as in diffusers."""

    @classmethod
    def split(cls, keywords: Mapping[str, Any], other_names: list[str]) -> tuple["LoadingOptions", dict[str, Any]]:
        """Splits keyword arguments into options and others, which are components and settings of the pipeline.

        Raises:
            InputError: a keyword is none of the options and of `other_names`, or an option is invalid.
        """
        names = [field.name for field in fields(cls)]
        unknown = [name for name in keywords if name not in (*names, *other_names)]
        if unknown:
            near = difflib.get_close_matches(unknown[0], [*names, *other_names], n=1)
            cure = f"did you mean '{near[0]}'?" if near else f"known are {', '.join([*names, *other_names])}"
            if unknown[0] in ("custom_pipeline", "trust_remote_code"):
                cure = "a pipeline class of one's own is loaded by DiffusionPipeline.from_pretrained"
            raise InputError(
                f"from_pretrained has no argument '{unknown[0]}'; {cure}",
                code=ErrorCode.unknown_key,
                field=unknown[0],
            )
        options = cls(**{name: value for name, value in keywords.items() if name in names})
        options._check()
        return options, {name: value for name, value in keywords.items() if name not in names}

    @property
    def download(self) -> dict[str, Any]:
        """Arguments of the download of a hub id."""
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        return {name: getattr(self, name) for name in names}

    def component_dtype(self, name: str) -> torch.dtype:
        """Returns the dtype of a component."""
        dtype = self.torch_dtype if self.dtype is None else self.dtype
        if isinstance(dtype, Mapping):
            return dtype.get(name, dtype.get("default", torch.float32))
        return torch.float32 if dtype is None or name in FLOAT32_COMPONENTS else dtype

    def component_options(self, folder: Path, name: str) -> dict[str, Any]:
        """Returns the arguments by which a model of the pipeline in `folder` is loaded, besides its dtype.

        Raises:
            InputError: its weights are stored as other variants only.
        """
        options: dict[str, Any] = {}
        if (variant := self._stored_variant(folder / name)) is not None:
            options["variant"] = variant
        if self.low_cpu_mem_usage is not None:
            options["low_cpu_mem_usage"] = self.low_cpu_mem_usage
        if self.device_map is not None:
            options["device_map"] = self.device_map
        quantization = component_quantization(self.quantization_config, name)
        if quantization is not None:
            options["quantization_config"] = quantization
        if "device_map" in options or "quantization_config" in options:
            options["device"] = None  # loading decides where the weights are
        return options

    def check_variants(self, folder: Path, names: list[str]) -> None:
        """Checks that the weights of the components `names` are there in the requested variant.

        Raises:
            InputError: none of them has the variant, or one is stored as another variant only.
        """
        variants = [self._stored_variant(folder / name) for name in names]
        if self.variant is not None and names and not any(variants):
            raise InputError(
                f"You are trying to load the model files of the `variant={self.variant}`, but '{folder}' has none; "
                "leave variant out, or give the one that the pipeline was saved with",
                code=ErrorCode.missing_weights,
                field="variant",
                value=self.variant,
            )

    def _stored_variant(self, folder: Path) -> str | None:
        """The requested variant if the component has it, None where it has weights without a variant."""
        found = [WEIGHTS_FILE.fullmatch(path.name) for path in sorted(folder.glob("*.safetensors"))]
        variants = {match["variant"] for match in found if match is not None}
        if self.variant in variants or None in variants or not variants:
            return self.variant if self.variant in variants else None
        stored = sorted(str(variant) for variant in variants)
        raise InputError(
            f"the weights in '{folder}' are stored as variant {', '.join(stored)} only; give variant='{stored[0]}'",
            code=ErrorCode.missing_weights,
            field="variant",
            value=self.variant,
        )

    def _check(self) -> None:
        if self.dtype is not None and self.torch_dtype is not None and self.dtype != self.torch_dtype:
            raise InputError(
                f"both dtype={self.dtype} and torch_dtype={self.torch_dtype} were given; leave torch_dtype out",
                code=ErrorCode.conflict,
                field="torch_dtype",
                value=self.torch_dtype,
            )
        for field in ("dtype", "torch_dtype"):
            _check_dtype(field, getattr(self, field))
        if self.use_safetensors is False:
            raise InputError(
                "use_safetensors is False, but pickled weights are never read; leave it out",
                code=ErrorCode.unsupported,
                field="use_safetensors",
                value=False,
            )
        if self.device_map is not None and self.device_map not in supported_device_maps():
            raise InputError(
                f"device_map is {self.device_map!r}; it must be one of {', '.join(supported_device_maps())}; "
                "for a model larger than the device, call enable_model_cpu_offload or enable_group_offload",
                code=ErrorCode.invalid_choice,
                field="device_map",
                value=self.device_map,
            )
        if self.low_cpu_mem_usage is False:
            raise InputError(
                "low_cpu_mem_usage is False, but diffusers keeps parts of Wan's transformer in float32, which needs "
                "it; leave it out",
                code=ErrorCode.unsupported,
                field="low_cpu_mem_usage",
                value=False,
            )
        _check_quantization(self.quantization_config)


def _check_dtype(field: str, dtype: Any) -> None:
    names = dtype if isinstance(dtype, Mapping) else {}
    unknown = [name for name in names if name not in (*MODEL_COMPONENTS, "default")]
    if unknown:
        raise InputError(
            f"{field} names '{unknown[0]}'; it must be some of {', '.join(MODEL_COMPONENTS)} and default",
            code=ErrorCode.unknown_key,
            field=field,
            value=unknown[0],
        )
    wrong = [value for value in (names.values() if names else [dtype]) if not isinstance(value, torch.dtype)]
    if wrong and dtype is not None:
        raise InputError(
            f"{field} is {wrong[0]!r}; a torch.dtype is needed, such as torch.bfloat16, or one for each component",
            code=ErrorCode.invalid_type,
            field=field,
            value=wrong[0],
        )


def _check_quantization(config: Any) -> None:
    if config is None:
        return
    if not isinstance(config, PipelineQuantizationConfig):
        raise InputError(
            f"quantization_config is a {type(config).__name__}; give a diffusers.PipelineQuantizationConfig, which "
            "says what is quantized how",
            code=ErrorCode.invalid_type,
            field="quantization_config",
            value=config,
        )
    unknown = [
        name for name in (config.quant_mapping or config.components_to_quantize or []) if name not in MODEL_COMPONENTS
    ]
    if unknown:
        raise InputError(
            f"quantization_config names '{unknown[0]}'; it must be some of {', '.join(MODEL_COMPONENTS)}",
            code=ErrorCode.invalid_choice,
            field="quantization_config",
            value=unknown[0],
        )
