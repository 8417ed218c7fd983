"""The model of a run: base, what it starts from, and what of it trains."""

from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_adapter_config, trained_base_names
from fantasytalking.checkpoints.expression_adapter import ensure_expression_modules, load_expression_adapter
from fantasytalking.checkpoints.lora import LoraSpec, add_lora, strip_peft_name
from fantasytalking.checkpoints.released_audio import from_released_audio, read_released_audio
from fantasytalking.checkpoints.released_portrait import is_released_portrait
from fantasytalking.common.config import did_you_mean
from fantasytalking.common.errors import InputError
from fantasytalking.common.tensor_io import LazyTensors, check_shapes, open_model_folder, read_json
from fantasytalking.models.expression_config import PADDING_MODES, ExpressionModuleConfig
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import ADAPTER_MODULES, adapter_module_of, load_from_wan
from fantasytalking.training.config import LoraConfig, TrainConfig
from fantasytalking.training.parameter_groups import AUDIO_POSITIONS, freeze_for_stage, group_of, set_trainable

SAVED_PIPELINE_MODULES = frozenset({"audio", "face", "motion"})
"""Modules that every saved pipeline has."""


def build_model(
    config: TrainConfig, frozen_dtype: torch.dtype, materialize: bool = True
) -> tuple[FantasyTalkingTransformer3DModel, "AdapterProvenance"]:
    """The model, on the CPU, with gradients on exactly what trains; that is float32, as are the paper's modules.

    Args:
        config: of the run.
        frozen_dtype: of what does not train.
        materialize: False leaves the base unwritten, for a process that is sent it and then needs no memory for it.

    Raises:
        InputError: base or init_from is missing or does not fit, or what is to train is not in the model.
    """
    torch.manual_seed(config.seed)  # fresh modules are alike on every process and at every start
    preset = load_model_config(config.model)
    base = config.base or preset.base
    _check_nano_base(base)
    model = load_from_wan(base, asdict(preset.portrait), frozen_dtype, materialize)
    if config.stage.distillation is not None:
        model.add_guidance_embedder(config.stage.distillation.to_spec())
    if config.stage.expression is not None:
        ensure_expression_modules(model, config.stage.expression.to_module_config())
    set_trainable(model, config.stage.trainable)
    for name, parameter in model.named_parameters():
        if adapter_module_of(name) or (parameter.requires_grad and materialize):
            parameter.data = parameter.data.float()
        elif parameter.requires_grad:
            parameter.data = torch.empty_like(parameter, dtype=torch.float32)
    origin = AdapterProvenance(base)
    if config.stage.init_from is not None:
        origin = load_initial_weights(model, Path(config.stage.init_from), base)
    if config.stage.distillation is not None and origin.lora is not None:
        raise InputError(
            f"stage.init_from '{config.stage.init_from}' brings a LoRA, and the teacher's weights must be its own; "
            "distil a model that was trained without one"
        )
    origin.expression, origin.expression_padding = (
        ExpressionModuleConfig.from_transformer_config(model.config),
        model.config.expression_padding,
    )
    _apply_lora(model, config.stage.lora, origin)
    origin.trained_names = freeze_for_stage(model, config.stage)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # a LoRA that init_from brings is as it was written
    if config.attention_backend is not None:
        _set_attention_backend(model, config.attention_backend)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train(), origin


class AdapterProvenance:
    """Where a run's weights come from, and so what its adapter must hold."""

    def __init__(
        self,
        base: str,
        modules: list[str] | None = None,
        base_parameter_names: list[str] | None = None,
        lora: LoraSpec | None = None,
    ) -> None:
        self.base, self.modules, self.base_parameter_names, self.lora = (
            base,
            modules or [],
            base_parameter_names or [],
            lora,
        )
        self.extends_saved_pipeline = False
        """Whether the modules that it does not bring are a saved pipeline's."""
        self.trained_names: list[str] = []
        """Names of what trains in this run."""
        self.expression: ExpressionModuleConfig | None = None
        """Of the model."""
        self.expression_padding = PADDING_MODES[0]
        """How its expression attention treats padding."""

    def adapter_config(self, config: TrainConfig, step: int) -> tuple[AdapterConfig, list[str]]:
        """The adapter's configuration after `step` steps, and the names of the base's tensors that it holds."""
        parts = {group_of(name) for name in self.trained_names}
        modules = [name for name in ADAPTER_MODULES if name in {*parts, *self.modules}]
        distillation = config.stage.distillation
        base_names = {strip_peft_name(name) for name in self.trained_names if group_of(name) == "base"} | set(
            self.base_parameter_names
        )
        described = AdapterConfig(
            modules=modules,
            audio_window="seconds",
            window_seconds=config.data.audio_window_seconds,
            base=self.base,
            on_saved=self.extends_saved_pipeline,
            expression=self.expression.to_dict() if self.expression and "expression" in modules else None,
            expression_padding=self.expression_padding,
            distillation=None if distillation is None else distillation.to_spec().to_dict(),
            lora=None if self.lora is None else self.lora.to_dict(),
            base_tensors=len(base_names),
            extra={"stage": config.stage.name, "steps": step, "ema_decay": config.optimizer.ema_decay},
        )
        return described, sorted(base_names)


def load_initial_weights(model: FantasyTalkingTransformer3DModel, init_from: Path, base: str) -> AdapterProvenance:
    """Sets what the run starts from: an adapter folder of ours, a saved pipeline, or released weights.

    An adapter that goes on a saved pipeline goes on the base, which must be one.

    Raises:
        InputError: none of these is there, or it does not fit the model.
    """
    if (init_from / "model_index.json").is_file():
        return _load_saved_pipeline(model, init_from, base)
    if init_from.is_dir():
        return _load_adapter_folder(model, init_from, base)
    check_initial_weights_exist(str(init_from))
    if is_released_portrait(init_from):
        load_expression_adapter(model, init_from)
        return AdapterProvenance(base, ["expression"])
    tensors = from_released_audio(read_released_audio(init_from))
    if (positions := model.audio_projector.positions) is not None:
        # The released weights know of no places; with none at all the model is theirs.
        tensors[AUDIO_POSITIONS] = torch.zeros_like(positions)
    _copy_weights(model, {"audio"}, tensors, f"'{init_from}'", base)
    return AdapterProvenance(base, ["audio"])


def _load_adapter_folder(model: FantasyTalkingTransformer3DModel, source: Path, base: str) -> AdapterProvenance:
    on_saved = read_adapter_config(source).on_saved
    if on_saved:
        if not (Path(base) / "model_index.json").is_file():
            raise InputError(
                f"stage.init_from '{source}' goes on a saved pipeline, and base '{base}' is none; give the one that it "
                "was trained on: base=FOLDER"
            )
        _load_saved_pipeline(model, Path(base), base)
    adapter = load_adapter(model, source)
    lora = None if adapter.lora is None else LoraSpec.from_dict(adapter.lora, str(source))
    origin = AdapterProvenance(base, adapter.modules, trained_base_names(source), lora)
    origin.extends_saved_pipeline = on_saved
    return origin


def _load_saved_pipeline(model: FantasyTalkingTransformer3DModel, source: Path, base: str) -> AdapterProvenance:
    """The paper's modules of a saved pipeline. An adapter of what is trained on them goes on that pipeline."""
    if source.resolve() != Path(base).resolve():
        raise InputError(
            f"stage.init_from '{source}' is a saved pipeline and base is '{base}'; they must be the same folder"
        )
    modules, config = SAVED_PIPELINE_MODULES, read_json(source / "transformer" / "config.json")
    sizes = ExpressionModuleConfig.from_transformer_config(config)
    if sizes is not None:
        ensure_expression_modules(model, sizes)
        model.register_to_config(expression_padding=config["expression_padding"])
        modules = SAVED_PIPELINE_MODULES | {"expression"}
    stored: LazyTensors = open_model_folder(source / "transformer")
    tensors = {name: stored.read(name) for name in stored.shapes if adapter_module_of(name) in modules}
    _copy_weights(model, modules, tensors, f"'{source}'", base)
    origin = AdapterProvenance(base)
    origin.extends_saved_pipeline = True
    return origin


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
    """Holds that what a run starts from is there, if it starts from anything.

    Raises:
        InputError: it is not; names the command that makes it.
    """
    if init_from is not None:
        _check_nano_base(init_from)
    if init_from is not None and not Path(init_from).exists():
        raise InputError(
            f"stage.init_from '{init_from}' is not there; for stage 2 train stage 1 first "
            "(fantasytalking train), or set stage.init_from to an adapter folder or null"
        )


def _apply_lora(model: FantasyTalkingTransformer3DModel, config: LoraConfig, provenance: AdapterProvenance) -> None:
    if not config.rank:
        return  # one that init_from brought trains on
    wanted = LoraSpec(config.rank, config.alpha, tuple(config.target_modules))
    if provenance.lora is None:
        add_lora(model, wanted, torch.float32)
        provenance.lora = wanted
    elif (wanted.rank, wanted.alpha, set(wanted.targets)) != (
        provenance.lora.rank,
        provenance.lora.alpha,
        set(provenance.lora.targets),
    ):
        raise InputError(
            f"stage.init_from brings a LoRA of rank {provenance.lora.rank}, alpha {provenance.lora.alpha:g}; "
            "stage.lora says "
            f"rank {wanted.rank}, alpha {wanted.alpha:g}: make rank, alpha and targets equal"
        )


def _set_attention_backend(model: FantasyTalkingTransformer3DModel, backend_name: str) -> None:
    known = [backend.value for backend in AttentionBackendName]
    if backend_name not in known:
        raise InputError(f"attention is '{backend_name}';{did_you_mean(backend_name, known)} known: {', '.join(known)}")
    try:
        model.set_attention_backend(backend_name)
    except (RuntimeError, ImportError) as error:
        raise InputError(f"attention '{backend_name}' cannot be used here: {str(error).splitlines()[0]}") from error
    for place, module in model.named_modules():
        if place.endswith(("attn1.norm_q", "attn1.norm_k")):
            module.register_forward_hook(_cast_to_input_dtype)


def _cast_to_input_dtype(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Autocast gives norms back in float32, which kernels other than PyTorch's own do not take."""
    return output.to(inputs[0].dtype)


def _check_nano_base(base: str) -> None:
    """Holds that the nano base is there where it is what is asked for."""
    if base == load_model_config("nano").base and not Path(base).is_dir():
        raise InputError(
            f"the nano base '{base}' is not there; copy it from a clone of the repository, or build it: "
            "fantasytalking build-nano"
        )
