"""Saves and loads adapters: the trained parameters of the paper's modules.

An adapter is a folder {adapter.safetensors, config.json, train.yaml}: parameters of the paper's modules under the
model's names, their description, and the training configuration. If the base was trained too, lora.safetensors or
base.safetensors contains its changes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.audio_tokens import AudioEncoderSpec
from fantasytalking.audio_windows import AUDIO_WINDOW_SECONDS
from fantasytalking.checkpoints.lora import (
    LoraSpec,
    add_lora,
    has_lora,
    lora_tensor_shapes,
    lora_tensors,
    strip_peft_name,
)
from fantasytalking.common.config import save_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.tensor_io import check_finite, check_shapes, open_safetensors
from fantasytalking.common.text_files import read_json
from fantasytalking.condition_registry import registered_condition, registered_conditions, resolve_conditions
from fantasytalking.face_range import face_ranges_from_dict
from fantasytalking.models.experts import Expert
from fantasytalking.models.expression_config import ExpressionModuleConfig, upgrade_expression_keys
from fantasytalking.models.expression_projector import expression_tensor_shapes
from fantasytalking.models.guidance_embedder import DistillationSpec, guidance_embedder_shapes
from fantasytalking.models.registered_module import registered_tensor_shapes
from fantasytalking.models.stored_linear import stored_weight_names
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of, adapter_modules
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer

ADAPTER_FILE = "adapter.safetensors"
LORA_FILE = "lora.safetensors"
BASE_FILE = "base.safetensors"
ADAPTER_FORMAT = 1
AUDIO_WINDOW_RULES = ("official", "seconds")


@dataclass
class AdapterConfig:
    """Description of an adapter: trained modules, base and audio windows. Written as config.json."""

    modules: list[str]
    """Trained and stored modules, some of `adapter_modules()`; the others stay as initialized. Empty if only the base
    was trained."""
    audio_window: str
    """`official` for the released weights, `seconds` for ours."""
    window_seconds: float = AUDIO_WINDOW_SECONDS
    """Span of an audio window in seconds, for the rule `seconds`."""
    base: str = ""
    """Hub ID or folder of the base that it was trained on, for information."""
    on_saved: bool = False
    """Whether it extends a saved pipeline, whose other modules stay, instead of a bare Wan base."""
    expression: dict[str, Any] | None = None
    """Configuration of the expression module (`ExpressionModuleConfig.to_dict`); None if it is not stored."""
    conditions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Sizes of the registered conditions that are stored, by name."""
    distillation: dict[str, Any] | None = None
    """Limits of a distilled model (`DistillationSpec.to_dict`); None if the guidance module is not stored."""
    lora: dict[str, Any] | None = None
    """Rank, alpha and targets of lora.safetensors; None without one."""
    expert: str | None = None
    """Transformer that it was trained on, of a base with two: `high` or `low` noise levels; None: the base has one."""
    face_ranges: dict[str, Any] | None = None
    """Sizes and places of faces in the training clips (`face_ranges_to_dict`); None if they are not known."""
    audio_encoder: dict[str, Any] | None = None
    """Encoder of the training clips' audio (`AudioEncoderSpec.to_dict`); None: wav2vec2 of unknown weights, as for the
    released weights and adapters of earlier releases."""
    base_tensors: int = 0
    """Number of trained base tensors in base.safetensors; 0 without that file."""
    format: int = ADAPTER_FORMAT
    """Version of the format."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Steps, stage and other facts of the training run, for information."""

    def validate(self, source: str) -> None:
        """Validates every value.

        Raises:
            InputError: names `source`, the key, its value and what is allowed.
        """
        if self.conditions is None:
            raise self._error(source, "conditions", "sizes by name are required", ErrorCode.invalid_type)
        resolve_conditions(self.conditions, source)
        known = list(adapter_modules())
        nothing = not self.modules and not self.base_tensors and self.lora is None
        if not isinstance(self.modules, list) or nothing or any(name not in known for name in self.modules):
            raise self._error(source, "modules", f"a list of some of {', '.join(known)} is required")
        if self.conditions.keys() != registered_conditions().keys() & set(self.modules):
            raise self._error(source, "conditions", "it names the registered modules", ErrorCode.conflict)
        if type(self.on_saved) is not bool:
            raise self._error(source, "on_saved", "true or false is required", ErrorCode.invalid_type)
        if not isinstance(self.base, str):
            raise self._error(source, "base", "a hub ID or folder is required", ErrorCode.invalid_type)
        if self.audio_window not in AUDIO_WINDOW_RULES:
            raise self._error(source, "audio_window", f"{' or '.join(AUDIO_WINDOW_RULES)} is required")
        if type(self.window_seconds) not in (int, float) or not 0 < self.window_seconds <= 10:
            raise self._error(source, "window_seconds", "it must be above 0 and at most 10", ErrorCode.out_of_range)
        if (self.expression is None) != ("expression" not in self.modules):
            raise self._error(
                source, "expression", "it is required with the expression module only", ErrorCode.conflict
            )
        if self.expression is not None:
            ExpressionModuleConfig.from_dict(self.expression, source)
        if (self.distillation is None) != ("guidance" not in self.modules):
            raise self._error(
                source, "distillation", "it is required with the guidance module only", ErrorCode.conflict
            )
        if self.distillation is not None:
            DistillationSpec.from_dict(self.distillation, source)
        if self.lora is not None:
            LoraSpec.from_dict(self.lora, source)
        face_ranges_from_dict(self.face_ranges, source)
        if self.audio_encoder is not None:
            AudioEncoderSpec.from_dict(self.audio_encoder, source)
        if self.expert not in (None, *(expert.value for expert in Expert)):
            raise self._error(source, "expert", "high, low or null is required")
        if type(self.base_tensors) is not int or not 0 <= self.base_tensors <= 100_000:
            raise self._error(source, "base_tensors", "it must be 0 to 100,000", ErrorCode.out_of_range)
        if self.format != ADAPTER_FORMAT:
            raise self._error(
                source, "format", f"this version reads {ADAPTER_FORMAT}; update the code", ErrorCode.unsupported
            )

    def audio_encoder_spec(self, audio_dim: int) -> AudioEncoderSpec:
        """Returns the encoder of the training clips' audio, for a model that reads `audio_dim` channels."""
        if self.audio_encoder is None:
            return AudioEncoderSpec.unrecorded(audio_dim)
        return AudioEncoderSpec.from_dict(self.audio_encoder, "adapter")

    def _error(
        self, source: str, name: str, requirement: str, code: ErrorCode = ErrorCode.invalid_choice
    ) -> InputError:
        value = getattr(self, name)
        return InputError(f"{source}: {name} is {value!r}; {requirement}", code=code, field=name, value=value)


def save_adapter(
    model: FantasyTalkingTransformer3DModel, folder: str | Path, config: AdapterConfig, train_config: Any = None
) -> None:
    """Writes the model's trained modules, and its LoRA if `config` has one, as an adapter folder.

    Args:
        model: only `config.modules` and the LoRA are written.
        folder: a new folder, or an adapter that is replaced.
        config: description of the adapter.
        train_config: the resolved training configuration (a dataclass), stored as train.yaml.
    """
    save_adapter_state(model.state_dict(), folder, config, train_config)


def save_adapter_state(
    state: Mapping[str, Tensor],
    folder: str | Path,
    config: AdapterConfig,
    train_config: Any = None,
    base_names: Iterable[str] = (),
    motion_normalizer: MotionNormalizer | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes the trained part of a model's state as an adapter folder, atomically.

    Args:
        state: state dict of the model.
        folder: a new folder, or an adapter that is replaced.
        config: description of the adapter.
        train_config: the resolved training configuration (a dataclass), stored as train.yaml.
        base_names: names, as in files, of the `config.base_tensors` trained tensors of the base.
        motion_normalizer: constants of the training corpus, stored as motion_normaliser.json.
        dtype: dtype of the written tensors; None = unchanged.
    """
    plain = {strip_peft_name(name): value for name, value in state.items() if ".lora_" not in name}
    parts = {ADAPTER_FILE: {name: value for name, value in plain.items() if adapter_module_of(name) in config.modules}}
    if config.lora is not None:
        parts[LORA_FILE] = lora_tensors(state)
    if config.base_tensors:
        parts[BASE_FILE] = {name: plain[name] for name in base_names}
        assert len(parts[BASE_FILE]) == config.base_tensors, "base_tensors must count the trained tensors of the base"
    if dtype is not None:
        parts = {file: {name: value.to(dtype) for name, value in part.items()} for file, part in parts.items()}
    _write_files(parts, folder, config, train_config, motion_normalizer)


def save_adapter_tensors(
    tensors: Mapping[str, Tensor], folder: str | Path, config: AdapterConfig, train_config: Any = None
) -> None:
    """Writes tensors in the model's names as an adapter folder, atomically."""
    assert config.lora is None and not config.base_tensors, "save_adapter_state writes trained tensors of the base"
    _write_files({ADAPTER_FILE: tensors}, folder, config, train_config)


def _write_files(
    parts: Mapping[str, Mapping[str, Tensor]],
    folder: str | Path,
    config: AdapterConfig,
    train_config: Any,
    motion_normalizer: MotionNormalizer | None = None,
) -> None:
    config.validate(str(folder))
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        for file, tensors in parts.items():
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary / file)
        (temporary / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
        if train_config is not None:
            save_config(train_config, temporary / "train.yaml")
        if motion_normalizer is not None:
            motion_normalizer.save(temporary / MOTION_NORMALIZER_FILE)


def read_adapter_config(folder: str | Path) -> AdapterConfig:
    """Reads the configuration of an adapter folder (or of the adapter.safetensors in one), without its tensors.

    Raises:
        InputError: the folder is not an adapter, or its configuration is invalid.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == ADAPTER_FILE else folder
    if not folder.is_dir():
        raise InputError(
            f"adapter '{folder}' is not a folder; use one with {ADAPTER_FILE} and config.json",
            code=ErrorCode.missing_file,
            field="adapter",
            value=str(folder),
        )
    values = upgrade_expression_keys(read_json(folder / "config.json"))
    source = str(folder / "config.json")
    known = {item.name for item in fields(AdapterConfig)}
    unknown, missing = sorted(values.keys() - known), sorted({"modules", "audio_window"} - values.keys())
    if unknown or missing:
        key = (unknown or missing)[0]
        raise InputError(
            f"{source}: {'unknown' if unknown else 'missing'} key '{key}'; it is not an adapter of this project",
            code=ErrorCode.unknown_key if unknown else ErrorCode.missing_value,
            field=key,
        )
    config = AdapterConfig(**values)
    config.validate(source)
    return config


def read_adapter(folder: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Reads configuration and tensors of an adapter folder (or of the adapter.safetensors in one).

    Raises:
        InputError: the folder is not an adapter, its configuration is invalid, or a tensor belongs to none of its
            modules.
    """
    config = read_adapter_config(folder)
    folder = Path(folder)
    folder = folder.parent if folder.name == ADAPTER_FILE else folder
    stored = open_safetensors(folder / ADAPTER_FILE)
    for name in stored.shapes:
        if adapter_module_of(name) not in config.modules:
            raise InputError(
                f"'{folder}': the tensor '{name}' belongs to none of the modules {', '.join(config.modules)}; get the "
                "adapter again",
                code=ErrorCode.shape_mismatch,
                field=name,
            )
    return config, {name: stored.read(name) for name in stored.shapes}


def load_adapter(model: FantasyTalkingTransformer3DModel, folder: str | Path) -> AdapterConfig:
    """Loads an adapter's modules, its LoRA and its trained base tensors into a model.

    Keys and shapes must match exactly; other parameters are unchanged. Expression modules, registered conditions and a
    guidance embedder are added if the adapter has them and the model does not.

    Raises:
        InputError: tensors are missing, unexpected, of another shape or not floating point, or both the adapter and
            the model have a LoRA; the model is then unchanged.
    """
    folder = Path(folder)
    config, tensors = read_adapter(folder)
    folder = folder.parent if folder.name == ADAPTER_FILE else folder
    state = {strip_peft_name(name): value for name, value in model.state_dict().items() if ".lora_" not in name}
    expected = {name: tuple(value.shape) for name, value in state.items() if adapter_module_of(name) in config.modules}
    sizes, distillation = _read_expression_config(config, model, folder), _read_distillation(config, model, folder)
    for name, condition_sizes in config.conditions.items():
        condition = registered_condition(name, str(folder))
        dim, num_blocks = len(model.motion_embedder.output.weight), len(model.blocks)
        check_condition_sizes(model, name, condition_sizes, str(folder))
        resolved = condition.resolve_sizes(condition_sizes, str(folder))
        expected |= registered_tensor_shapes(condition, resolved, dim, num_blocks)
    if sizes is not None:
        expected |= expression_tensor_shapes(sizes, len(model.motion_embedder.output.weight), len(model.blocks))
    if distillation is not None:
        shapes = guidance_embedder_shapes(distillation, len(model.motion_embedder.output.weight))
        expected |= {f"guidance_embedder.{name}": shape for name, shape in shapes.items()}
    _check_adapter_shapes(tensors, expected, folder)
    base = _read_base(folder, config, state, model)
    lora, settings = _read_lora(folder, config, model)
    for name, condition_sizes in config.conditions.items():
        ensure_condition(model, name, condition_sizes)
    if sizes is not None and model.expression_projector is None:
        model.add_expression_modules(sizes)
    if distillation is not None and model.distillation is None:
        model.add_guidance_embedder(distillation)
    state |= {strip_peft_name(name): value for name, value in model.state_dict().items() if ".lora_" not in name}
    with torch.no_grad():
        for name, value in {**tensors, **base}.items():
            state[name].copy_(value)
        if sizes is not None:
            model.configure_expression(sizes)
        if settings is not None:
            add_lora(model, settings, next(iter(lora.values())).dtype)
            for name, value in lora_tensors(model.state_dict()).items():
                value.copy_(lora[name])
    return config


def ensure_condition(model: FantasyTalkingTransformer3DModel, name: str, sizes: Mapping[str, int]) -> None:
    """Adds a new module of a registered condition, whose output is zero, unless the model already has it.

    Raises:
        InputError: the condition is not registered, or the model has it in other sizes.
    """
    check_condition_sizes(model, name, sizes, "model")
    if name not in (model.config.conditions or {}):
        model.add_condition(name, sizes)


def check_condition_sizes(
    model: FantasyTalkingTransformer3DModel, name: str, sizes: Mapping[str, int], source: str
) -> None:
    """Validates that the model has a registered condition in the same sizes, or not at all.

    Raises:
        InputError: it has it in other sizes.
    """
    has = (model.config.conditions or {}).get(name)
    wanted = registered_condition(name, source).resolve_sizes(sizes, source)
    if has not in (None, wanted):
        raise InputError(
            f"{source}: the condition '{name}' has sizes {wanted}, but the model has {dict(has)}; both must be equal",
            code=ErrorCode.shape_mismatch,
            field=f"conditions.{name}",
            value=wanted,
        )


def _read_expression_config(
    config: AdapterConfig, model: FantasyTalkingTransformer3DModel, folder: Path
) -> ExpressionModuleConfig | None:
    if config.expression is None:
        return None
    sizes, has = ExpressionModuleConfig.from_dict(config.expression, str(folder)), model.expression_config
    if has is not None and not has.has_same_sizes(sizes):
        raise InputError(
            f"adapter '{folder}' has an expression condition of sizes {sizes.to_dict()}, but the model has "
            f"{has.to_dict()}; both must be equal",
            code=ErrorCode.shape_mismatch,
            field="expression",
            value=sizes.to_dict(),
        )
    return sizes


def _read_distillation(
    config: AdapterConfig, model: FantasyTalkingTransformer3DModel, folder: Path
) -> DistillationSpec | None:
    if config.distillation is None:
        return None
    distillation = DistillationSpec.from_dict(config.distillation, str(folder))
    if model.distillation not in (None, distillation):
        raise InputError(
            f"adapter '{folder}' and the model are distilled with different settings; load it into a new model",
            code=ErrorCode.conflict,
            field="distillation",
            value=config.distillation,
        )
    return distillation


def trained_base_names(folder: str | Path) -> list[str]:
    """Returns the names of the trained base tensors in an adapter folder."""
    config, _ = read_adapter(folder)
    return sorted(open_safetensors(Path(folder) / BASE_FILE).shapes) if config.base_tensors else []


def _read_base(
    folder: Path, config: AdapterConfig, state: Mapping[str, Tensor], model: FantasyTalkingTransformer3DModel
) -> dict[str, Tensor]:
    if not config.base_tensors:
        return {}
    tensors = _read_tensors(folder / BASE_FILE)
    if len(tensors) != config.base_tensors:
        raise InputError(
            f"'{folder / BASE_FILE}' has {len(tensors)} tensors, but base_tensors of config.json is "
            f"{config.base_tensors}; get the adapter again",
            code=ErrorCode.shape_mismatch,
            field="base_tensors",
            value=len(tensors),
        )
    if stored := sorted(tensors.keys() & set(map(strip_peft_name, stored_weight_names(model)))):
        raise InputError(
            f"adapter '{folder}' replaces the base's '{stored[0]}', which stays quantized; leave the base "
            "unquantized: optimizations.quantization=none, or base_quantization=none in training",
            code=ErrorCode.conflict,
            field="optimizations.quantization",
            value="stored",
        )
    named = {name: tuple(state[name].shape) for name in tensors if name in state and adapter_module_of(name) is None}
    _check_adapter_shapes(tensors, named, folder)
    return tensors


def _read_lora(
    folder: Path, config: AdapterConfig, model: FantasyTalkingTransformer3DModel
) -> tuple[dict[str, Tensor], LoraSpec | None]:
    if config.lora is None:
        return {}, None
    if has_lora(model):
        raise InputError(
            f"adapter '{folder}' has a LoRA, but the model already has one; load it into a new model",
            code=ErrorCode.conflict,
            field="lora",
            value=config.lora,
        )
    settings = LoraSpec.from_dict(config.lora, str(folder))
    tensors = _read_tensors(folder / LORA_FILE)
    _check_adapter_shapes(tensors, lora_tensor_shapes(model, settings), folder)
    return tensors, settings


def _read_tensors(path: Path) -> dict[str, Tensor]:
    stored = open_safetensors(path)
    return {name: stored.read(name) for name in stored.shapes}


def _check_adapter_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    check_shapes(found, expected, f"adapter '{folder}'", "it was made for a model of another size")
    check_finite(tensors, str(folder))
