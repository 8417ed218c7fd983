"""Builds the model of a run: loads the base and the initial weights, and selects the parameters that train."""

import os
import shutil
from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn

from fantasytalking.checkpoints.adapter import (
    AdapterConfig,
    ensure_condition,
    load_adapter,
    read_adapter_config,
    trained_base_names,
)
from fantasytalking.checkpoints.adapter_formats import load_any_adapter
from fantasytalking.checkpoints.expression_adapter import ensure_expression_modules
from fantasytalking.checkpoints.lora import LoraSpec, add_lora, strip_peft_name
from fantasytalking.common.config import did_you_mean
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import resolve_local
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import check_shapes, open_model_folder
from fantasytalking.common.text_files import read_json
from fantasytalking.condition_registry import resolve_conditions
from fantasytalking.models.experts import Expert
from fantasytalking.models.expression_config import ExpressionModuleConfig, upgrade_expression_keys
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of, adapter_modules
from fantasytalking.training.config import BaseQuantization, TrainConfig
from fantasytalking.training.frozen_base import load_base
from fantasytalking.training.objectives import build_objective
from fantasytalking.training.parameter_groups import freeze_for_stage, group_of, set_trainable
from fantasytalking.training.stage_config import LoraConfig

SAVED_PIPELINE_MODULES = frozenset({"audio", "face", "motion"})
"""Adapter modules of every saved pipeline."""


def build_model(
    config: TrainConfig, frozen_dtype: torch.dtype, materialize: bool = True
) -> tuple[FantasyTalkingTransformer3DModel, "AdapterProvenance"]:
    """Returns the model on the CPU, with gradients enabled for exactly what trains, and where its weights come from.

    Trained parameters and the adapter's modules are float32.

    Args:
        frozen_dtype: type of the frozen base.
        materialize: False leaves the base uninitialized, for a process that receives it from the first one.

    Raises:
        InputError: base or init_from is missing or does not fit, or a trainable pattern matches nothing.
    """
    torch.manual_seed(config.seed)  # equal initialization on every process and at every start
    preset = load_model_config(config.model)
    base = config.base or preset.base
    _check_nano_base(base)
    expert = config.stage.expert
    subfolder = (expert or Expert.high).component
    model = load_base(config, base, asdict(preset.portrait), frozen_dtype, materialize, subfolder)
    objective = build_objective(config.stage, config.sigma_range)
    objective.add_modules(model)
    if config.stage.expression is not None:
        ensure_expression_modules(model, config.stage.expression.to_module_config(preset.geometry.temporal_stride))
    for name, condition in config.stage.conditions.items():
        ensure_condition(model, name, condition.sizes)
    set_trainable(model, config.stage.trainable)
    for name, parameter in model.named_parameters():
        if adapter_module_of(name) or (parameter.requires_grad and materialize):
            parameter.data = parameter.data.float()
        elif parameter.requires_grad:
            parameter.data = torch.empty_like(parameter, dtype=torch.float32)
    provenance = AdapterProvenance(base)
    if config.stage.init_from is not None:
        provenance = load_initial_weights(model, Path(resolve_local(config.stage.init_from)), base, expert)
    if objective.uses_teacher and provenance.lora is not None:
        raise InputError(
            f"stage.init_from '{config.stage.init_from}' has a LoRA, but the teacher is the model without LoRA; "
            "distill a model that was trained without one",
            code=ErrorCode.conflict,
            field="stage.init_from",
            value=config.stage.init_from,
        )
    provenance.expression = model.expression_config
    provenance.conditions = dict(model.config.conditions or {})
    _apply_lora(model, config.stage.lora, provenance)
    provenance.trained_names = freeze_for_stage(model, config.stage)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # the LoRA of init_from has the type of its file
    if config.base_quantization is not BaseQuantization.none:
        _cast_frozen_matrices(model, frozen_dtype)
    if config.attention_backend is not None:
        _set_attention_backend(model, config.attention_backend)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train(), provenance


def _cast_frozen_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the matrices of adapter modules that do not train, as autocast would in every call."""
    for name, module in model.named_modules():
        is_ours = adapter_module_of(f"{strip_peft_name(name)}.weight") is not None and ".lora_" not in name
        if isinstance(module, nn.Linear) and is_ours and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(dtype)


class AdapterProvenance:
    """Where a run's weights come from, which determines what its adapter must contain.

    Args:
        base: folder, file or hub id of the base.
        modules: adapter modules that the initial weights contain.
        base_parameter_names: tensors of the base that the initial weights replace.
        lora: LoRA of the initial weights.
    """

    def __init__(
        self,
        base: str,
        modules: list[str] | None = None,
        base_parameter_names: list[str] | None = None,
        lora: LoraSpec | None = None,
    ) -> None:
        self.base, self.modules = base, modules or []
        self.base_parameter_names, self.lora = base_parameter_names or [], lora
        self.extends_saved_pipeline = False
        """Whether the adapter modules that the adapter lacks are those of a saved pipeline."""
        self.trained_names: list[str] = []
        """Names of the parameters that train in this run."""
        self.expression: ExpressionModuleConfig | None = None
        """Expression modules of the model, or None."""
        self.conditions: dict[str, dict[str, int]] = {}
        """Sizes of the model's registered conditions, by name."""

    def adapter_config(self, config: TrainConfig, step: int) -> tuple[AdapterConfig, list[str]]:
        """Returns the adapter's configuration after `step` steps and the names of the base tensors that it contains."""
        parts = {group_of(name) for name in self.trained_names}
        # Of a module that has a LoRA, the layers beneath are part of the adapter, too.
        adapted = {adapter_module_of(f"{name.split('.lora_')[0]}.weight") for name in self.trained_names}
        modules = [name for name in adapter_modules() if name in {*parts, *adapted, *self.modules}]
        distillation = config.stage.distillation
        trained_base_names = {strip_peft_name(name) for name in self.trained_names if group_of(name) == "base"}
        base_names = trained_base_names | set(self.base_parameter_names)
        adapter_config = AdapterConfig(
            modules=modules,
            audio_window="seconds",
            window_seconds=config.data.audio_window_seconds,
            base=self.base,
            on_saved=self.extends_saved_pipeline,
            expression=self.expression.to_dict() if self.expression and "expression" in modules else None,
            conditions={name: sizes for name, sizes in self.conditions.items() if name in modules},
            distillation=None if distillation is None else distillation.to_spec().to_dict(),
            lora=None if self.lora is None else self.lora.to_dict(),
            base_tensors=len(base_names),
            expert=None if config.stage.expert is None else config.stage.expert.value,
            extra={"stage": config.stage.name, "steps": step, "ema_decay": config.optimizer.ema_decay},
        )
        return adapter_config, sorted(base_names)


def load_initial_weights(
    model: FantasyTalkingTransformer3DModel, init_from: Path, base: str, expert: Expert | None = None
) -> AdapterProvenance:
    """Loads an adapter folder, a saved pipeline, or the released audio or portrait weights into `model`.

    An adapter that extends a saved pipeline requires `base` to be that pipeline.

    Args:
        expert: the transformer that `model` is, of a base with two; an adapter must have been trained on it.

    Raises:
        InputError: there is none of these at `init_from`, or it does not fit the model.
    """
    if (init_from / "model_index.json").is_file():
        return _load_saved_pipeline(model, init_from, base, expert)
    if init_from.is_dir():
        return _load_adapter_folder(model, init_from, base, expert)
    check_initial_weights_exist(str(init_from))
    return AdapterProvenance(base, load_any_adapter(model, init_from))


def _load_adapter_folder(
    model: FantasyTalkingTransformer3DModel, source: Path, base: str, expert: Expert | None
) -> AdapterProvenance:
    described = read_adapter_config(source)
    if described.expert != (None if expert is None else expert.value):
        raise InputError(
            f"stage.init_from '{source}' was trained on "
            f"{'a base with one transformer' if described.expert is None else f'the {described.expert}-noise expert'}, "
            f"but stage.expert is {'not set' if expert is None else expert.value}; start from the adapter that was "
            "trained on the same transformer",
            code=ErrorCode.conflict,
            field="stage.init_from",
            value=described.expert,
        )
    on_saved = described.on_saved
    if on_saved:
        if not (Path(resolve_local(base)) / "model_index.json").is_file():
            raise InputError(
                f"base '{base}' is not a saved pipeline, but stage.init_from '{source}' extends one; give the pipeline "
                "that it was trained on: base=FOLDER",
                code=ErrorCode.conflict,
                field="base",
                value=base,
            )
        _load_saved_pipeline(model, Path(resolve_local(base)), base, expert)
    adapter = load_adapter(model, source)
    lora = None if adapter.lora is None else LoraSpec.from_dict(adapter.lora, str(source))
    provenance = AdapterProvenance(base, adapter.modules, trained_base_names(source), lora)
    provenance.extends_saved_pipeline = on_saved
    return provenance


def _load_saved_pipeline(
    model: FantasyTalkingTransformer3DModel, source: Path, base: str, expert: Expert | None
) -> AdapterProvenance:
    """Loads the adapter modules of a saved pipeline; the adapter of the run then extends that pipeline."""
    if source.resolve() != Path(resolve_local(base)).resolve():
        raise InputError(
            f"stage.init_from '{source}' is a saved pipeline, but base is '{base}'; they must be the same folder",
            code=ErrorCode.conflict,
            field="stage.init_from",
            value=str(source),
        )
    path = source / (expert or Expert.high).component / "config.json"
    modules, described = SAVED_PIPELINE_MODULES, upgrade_expression_keys(read_json(path))
    for name, sizes in resolve_conditions(described.get("conditions"), str(path)).items():
        ensure_condition(model, name, sizes)
        modules |= {name}
    expression = described.get("expression")
    if expression is not None:
        expression_config = ExpressionModuleConfig.from_dict(expression, str(path))
        ensure_expression_modules(model, expression_config)
        model.configure_expression(expression_config)
        modules |= {"expression"}
    stored: LazyTensors = open_model_folder(path.parent)
    tensors = {name: stored.read(name) for name in stored.shapes if adapter_module_of(name) in modules}
    _copy_weights(model, modules, tensors, f"'{source}'", base)
    provenance = AdapterProvenance(base)
    provenance.extends_saved_pipeline = True
    return provenance


def _copy_weights(
    model: FantasyTalkingTransformer3DModel,
    modules: Set[str],
    tensors: Mapping[str, Tensor],
    source_name: str,
    base: str,
) -> None:
    state = model.state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items() if adapter_module_of(name) in modules}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    check_shapes(found, wanted, source_name, f"it was made for another model than '{base}'")
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)


def check_initial_weights_exist(init_from: str | None) -> None:
    """Validates that the initial weights of a run exist, if it has any.

    Raises:
        InputError: they do not; the message names the command that makes them.
    """
    if init_from is not None:
        _check_nano_base(init_from)
    if init_from is not None and not Path(resolve_local(init_from)).exists():
        raise InputError(
            f"stage.init_from '{init_from}' does not exist; for stage 2 train stage 1 first "
            "(fantasytalking train), or set stage.init_from to an adapter folder or null",
            code=ErrorCode.missing_file,
            field="stage.init_from",
            value=init_from,
        )


def _apply_lora(model: FantasyTalkingTransformer3DModel, config: LoraConfig, provenance: AdapterProvenance) -> None:
    if not config.rank:
        return  # the LoRA of init_from, if any, trains
    wanted = LoraSpec(config.rank, config.alpha, tuple(config.target_modules))
    if provenance.lora is None:
        add_lora(model, wanted, torch.float32)
        provenance.lora = wanted
        return
    loaded = provenance.lora
    if (wanted.rank, wanted.alpha, set(wanted.targets)) != (loaded.rank, loaded.alpha, set(loaded.targets)):
        raise InputError(
            f"stage.lora has rank {wanted.rank} and alpha {wanted.alpha:g}, but the LoRA of stage.init_from has rank "
            f"{loaded.rank} and alpha {loaded.alpha:g}; make rank, alpha and target_modules equal",
            code=ErrorCode.conflict,
            field="stage.lora",
            value=wanted.rank,
        )


def _set_attention_backend(model: FantasyTalkingTransformer3DModel, backend_name: str) -> None:
    known = [backend.value for backend in AttentionBackendName]
    if backend_name not in known:
        raise InputError(
            f"attention_backend is '{backend_name}';{did_you_mean(backend_name, known)} known: {', '.join(known)}",
            code=ErrorCode.invalid_choice,
            field="attention_backend",
            value=backend_name,
        )
    try:
        model.set_attention_backend(backend_name)
    except (RuntimeError, ImportError) as error:
        raise InputError(
            f"attention_backend '{backend_name}' cannot be used on this machine: {str(error).splitlines()[0]}",
            code=ErrorCode.unsupported,
            field="attention_backend",
            value=backend_name,
        ) from error
    for name, module in model.named_modules():
        if name.endswith(("attn1.norm_q", "attn1.norm_k")):
            module.register_forward_hook(_cast_to_input_dtype)


def compile_blocks(model: FantasyTalkingTransformer3DModel, device: torch.device) -> None:
    """Compiles the blocks one by one with torch.compile. They share their code; names and weights do not change.

    Raises:
        InputError: there is no C++ compiler, which a CPU needs.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise InputError(
            f"compile is true, but there is no C++ compiler '{compiler}'; install one or set compile=false",
            code=ErrorCode.unsupported,
            field="compile",
            value=True,
        )
    for block in model.blocks:
        block.compile()


def _cast_to_input_dtype(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Undoes autocast's float32 output of norms, which attention kernels other than PyTorch's own reject."""
    return output.to(inputs[0].dtype)


def _check_nano_base(base: str) -> None:
    if base == load_model_config("nano").base and not Path(resolve_local(base)).is_dir():
        raise InputError(
            f"the nano base '{base}' does not exist; copy it from a clone of the repository, or build it: "
            "fantasytalking build-nano",
            code=ErrorCode.missing_weights,
            field="base",
            value=base,
        )
