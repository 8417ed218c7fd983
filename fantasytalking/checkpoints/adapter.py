"""Our adapters on disk.

A folder {adapter.safetensors, config.json, train.yaml}: parameters of the paper's modules under the model's own names,
what they are, and how they were trained. Where the base was trained too, lora.safetensors or base.safetensors stands
beside them and holds what changed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

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
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.tensor_io import check_finite, check_shapes, open_safetensors, read_json
from fantasytalking.models.expression_config import PADDING_MODES, ExpressionModuleConfig
from fantasytalking.models.expression_projector import expression_tensor_shapes
from fantasytalking.models.guidance_embedder import DistillationSpec, guidance_embedder_shapes
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import ADAPTER_MODULES, adapter_module_of
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer

ADAPTER_FILE = "adapter.safetensors"
LORA_FILE = "lora.safetensors"
BASE_FILE = "base.safetensors"
ADAPTER_FORMAT = 1
AUDIO_WINDOW_RULES = ("official", "seconds")


@dataclass
class AdapterConfig:
    """What an adapter is: which modules were trained, on which base, with which audio windows."""

    modules: list[str]
    """Of audio, face, motion, expression: those that were trained and are stored. The others stay fresh.
    Empty when the base alone was trained."""
    audio_window: str
    """`official` for the released weights, `seconds` for ours."""
    window_seconds: float = AUDIO_WINDOW_SECONDS
    """Span of a window under the rule `seconds`."""
    base: str = ""
    """Hub id or folder of the base it was trained on, for the reader."""
    on_saved: bool = False
    """Whether it goes on a saved pipeline, whose modules it replaces or leaves; else on a bare Wan base."""
    expression: dict[str, Any] | None = None
    """Sizes of the expression module (`ExpressionModuleConfig.to_dict`); None when it is not stored."""
    expression_padding: str = PADDING_MODES[0]
    """How the expression was trained to treat padding; `attended` for the released weights."""
    distillation: dict[str, Any] | None = None
    """What a distilled model follows (`DistillationSpec.to_dict`); None when the guidance module is not stored."""
    lora: dict[str, Any] | None = None
    """Rank, alpha and targets of lora.safetensors; None when there is none."""
    base_tensors: int = 0
    """Tensors in base.safetensors: those of the base that were trained; 0 when there is no such file."""
    format: int = ADAPTER_FORMAT
    extra: dict[str, Any] = field(default_factory=dict)
    """Facts of the run that made it (steps, stage), for the reader."""

    def validate(self, source: str) -> None:
        """Holds every value in its limits.

        Raises:
            InputError: naming `source`, the value and the limit.
        """
        known = list(ADAPTER_MODULES)
        nothing = not self.modules and not self.base_tensors and self.lora is None
        if not isinstance(self.modules, list) or nothing or any(name not in known for name in self.modules):
            raise InputError(f"{source}: modules is {self.modules!r}; a list of some of {', '.join(known)} is needed")
        if type(self.on_saved) is not bool:
            raise InputError(f"{source}: on_saved is {self.on_saved!r}; true or false is needed")
        if self.audio_window not in AUDIO_WINDOW_RULES:
            raise InputError(
                f"{source}: audio_window is {self.audio_window!r}; {' or '.join(AUDIO_WINDOW_RULES)} is needed"
            )
        if not isinstance(self.window_seconds, int | float) or not 0 < self.window_seconds <= 10:
            raise InputError(f"{source}: window_seconds is {self.window_seconds!r}; 0 to 10 is needed")
        if self.expression_padding not in PADDING_MODES:
            raise InputError(
                f"{source}: expression_padding is {self.expression_padding!r}; {' or '.join(PADDING_MODES)} is needed"
            )
        if (self.expression is None) != ("expression" not in self.modules):
            raise InputError(f"{source}: expression is {self.expression!r}; it belongs to the expression module")
        if self.expression is not None:
            ExpressionModuleConfig.from_dict(self.expression, source)
        if (self.distillation is None) != ("guidance" not in self.modules):
            raise InputError(f"{source}: distillation is {self.distillation!r}; it belongs to the guidance module")
        if self.distillation is not None:
            DistillationSpec.from_dict(self.distillation, source)
        if self.lora is not None:
            LoraSpec.from_dict(self.lora, source)
        if type(self.base_tensors) is not int or not 0 <= self.base_tensors <= 100_000:
            raise InputError(f"{source}: base_tensors is {self.base_tensors!r}; a number of tensors is needed")
        if self.format != ADAPTER_FORMAT:
            raise InputError(
                f"{source}: format is {self.format!r}, this version reads {ADAPTER_FORMAT}; update the code"
            )


def save_adapter(
    model: FantasyTalkingTransformer3DModel, folder: str | Path, config: AdapterConfig, train_config: Any = None
) -> None:
    """Writes the model's trained modules, and its LoRA when the config has one, as an adapter folder.

    Args:
        model: holds the weights; only `config.modules` and the LoRA are written.
        folder: new, or an adapter that is replaced.
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
    """Writes the trained part of a model's whole state as an adapter folder, whole or not at all.

    Args:
        state: of the model.
        base_names: the names, as in files, of the base's tensors that were trained; `config.base_tensors` many.
        motion_normalizer: constants of the clips that it was trained on, stored as motion_normaliser.json.
        dtype: of what is written; None = as it is.
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
    """Writes tensors in the model's names as an adapter folder, whole or not at all."""
    assert config.lora is None and not config.base_tensors, "write_state writes what was trained of the base"
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
    """What an adapter folder (or the adapter.safetensors in one) says of itself; no tensor is read.

    Raises:
        InputError: no adapter there, or unknown configuration.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == ADAPTER_FILE else folder
    if not folder.is_dir():
        raise InputError(f"adapter '{folder}' is not a folder; give one that holds {ADAPTER_FILE} and config.json")
    values = read_json(folder / "config.json")
    source = str(folder / "config.json")
    known = {item.name for item in fields(AdapterConfig)}
    unknown, missing = sorted(values.keys() - known), sorted({"modules", "audio_window"} - values.keys())
    if unknown or missing:
        raise InputError(
            f"{source}: {'unknown' if unknown else 'missing'} key '{(unknown or missing)[0]}'; not an adapter of ours"
        )
    config = AdapterConfig(**values)
    config.validate(source)
    return config


def read_adapter(folder: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Configuration and tensors of an adapter folder (or of the adapter.safetensors in one).

    Raises:
        InputError: no adapter there, unknown configuration, or a tensor that belongs to none of its modules.
    """
    config = read_adapter_config(folder)
    folder = Path(folder)
    folder = folder.parent if folder.name == ADAPTER_FILE else folder
    stored = open_safetensors(folder / ADAPTER_FILE)
    for name in stored.shapes:
        if adapter_module_of(name) not in config.modules:
            raise InputError(
                f"'{folder}': the tensor '{name}' belongs to none of the modules {', '.join(config.modules)}"
            )
    return config, {name: stored.read(name) for name in stored.shapes}


def load_adapter(model: FantasyTalkingTransformer3DModel, folder: str | Path) -> AdapterConfig:
    """Sets the modules that the adapter holds, adds its LoRA, and sets what was trained of the base.

    Keys and shapes must match exactly; the rest of the model is untouched. A model that has no expression condition or
    no guidance embedder is given those that the adapter holds.

    Raises:
        InputError: tensors missing, left over, of another shape or not floating point, or a LoRA where the model has
            one already; then nothing was changed.
    """
    folder = Path(folder)
    config, tensors = read_adapter(folder)
    folder = folder.parent if folder.name == ADAPTER_FILE else folder
    state = {strip_peft_name(name): value for name, value in model.state_dict().items() if ".lora_" not in name}
    wanted = {name: tuple(value.shape) for name, value in state.items() if adapter_module_of(name) in config.modules}
    sizes, distillation = _read_expression_config(config, model, folder), _read_distillation(config, model, folder)
    if sizes is not None:
        wanted |= expression_tensor_shapes(sizes, len(model.motion_embedder.output.weight), len(model.blocks))
    if distillation is not None:
        shapes = guidance_embedder_shapes(distillation, len(model.motion_embedder.output.weight))
        wanted |= {f"guidance_embedder.{name}": shape for name, shape in shapes.items()}
    _check_adapter_shapes(tensors, wanted, folder)
    base = _read_base(folder, config, state)
    lora, settings = _read_lora(folder, config, model)
    if sizes is not None and model.expression_projector is None:
        model.add_expression_modules(sizes)
    if distillation is not None and model.distillation is None:
        model.add_guidance_embedder(distillation)
    state |= {name: value for name, value in model.state_dict().items() if adapter_module_of(name) in config.modules}
    with torch.no_grad():
        for name, value in {**tensors, **base}.items():
            state[name].copy_(value)
        if "expression" in config.modules:
            model.register_to_config(expression_padding=config.expression_padding)
        if settings is not None:
            add_lora(model, settings, next(iter(lora.values())).dtype)
            for name, value in lora_tensors(model.state_dict()).items():
                value.copy_(lora[name])
    return config


def _read_expression_config(
    config: AdapterConfig, model: FantasyTalkingTransformer3DModel, folder: Path
) -> ExpressionModuleConfig | None:
    if config.expression is None:
        return None
    sizes, has = (
        ExpressionModuleConfig.from_dict(config.expression, str(folder)),
        ExpressionModuleConfig.from_transformer_config(model.config),
    )
    if has not in (None, sizes):
        raise InputError(
            f"adapter '{folder}' holds an expression condition of the sizes {sizes.to_dict()}, the model has "
            f"{has.to_dict()}; give both the same"
        )
    return sizes


def _read_distillation(
    config: AdapterConfig, model: FantasyTalkingTransformer3DModel, folder: Path
) -> DistillationSpec | None:
    if config.distillation is None:
        return None
    distillation = DistillationSpec.from_dict(config.distillation, str(folder))
    if model.distillation not in (None, distillation):
        raise InputError(f"adapter '{folder}' is distilled, and so is the model, otherwise; load it on a fresh one")
    return distillation


def trained_base_names(folder: str | Path) -> list[str]:
    """Names of the base's tensors that an adapter folder brings with it."""
    config, _ = read_adapter(folder)
    return sorted(open_safetensors(Path(folder) / BASE_FILE).shapes) if config.base_tensors else []


def _read_base(folder: Path, config: AdapterConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not config.base_tensors:
        return {}
    tensors = _read_tensors(folder / BASE_FILE)
    if len(tensors) != config.base_tensors:
        raise InputError(f"'{folder / BASE_FILE}' has {len(tensors)} tensors, config.json says {config.base_tensors}")
    named = {name: tuple(state[name].shape) for name in tensors if name in state and adapter_module_of(name) is None}
    _check_adapter_shapes(tensors, named, folder)
    return tensors


def _read_lora(
    folder: Path, config: AdapterConfig, model: FantasyTalkingTransformer3DModel
) -> tuple[dict[str, Tensor], LoraSpec | None]:
    if config.lora is None:
        return {}, None
    if has_lora(model):
        raise InputError(f"adapter '{folder}' brings a LoRA and the model has one already; load it on a fresh model")
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
