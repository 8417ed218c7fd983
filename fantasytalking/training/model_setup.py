"""The model of a run: base, what it starts from, and what of it trains."""

from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn

from fantasytalking.checkpoints.adapter import AdapterConfig, load_adapter, read_config, trained_base_names
from fantasytalking.checkpoints.expression_adapter import add_expression, load_expression
from fantasytalking.checkpoints.lora import LoraSettings, add_lora, plain_name
from fantasytalking.checkpoints.released_audio import from_official, read_released
from fantasytalking.checkpoints.released_portrait import holds_expression
from fantasytalking.common.config import suggestion
from fantasytalking.common.errors import InputError
from fantasytalking.common.tensor_io import StoredTensors, compare_shapes, open_model_folder, read_json
from fantasytalking.models.expression_config import PADDINGS, ExpressionSizes
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import PORTRAIT_MODULES, from_wan, portrait_module
from fantasytalking.training.config import LoraConfig, TrainConfig
from fantasytalking.training.parameter_groups import POSITIONS, part_of, set_stage, set_trainable

OWN = frozenset({"audio", "face", "motion"})
"""Modules that every saved pipeline has."""


def build_model(
    config: TrainConfig, frozen_dtype: torch.dtype, values: bool = True
) -> tuple[FantasyTalkingTransformer3DModel, "Origin"]:
    """The model, on the CPU, with gradients on exactly what trains; that is float32, as are the paper's modules.

    Args:
        config: of the run.
        frozen_dtype: of what does not train.
        values: False leaves the base unwritten, for a process that is sent it and then needs no memory for it.

    Raises:
        InputError: base or init_from is missing or does not fit, or what is to train is not in the model.
    """
    torch.manual_seed(config.seed)  # fresh modules are alike on every process and at every start
    preset = load_model_config(config.model)
    base = config.base or preset.base
    _check_base(base)
    model = from_wan(base, asdict(preset.portrait), frozen_dtype, values)
    if config.stage.distillation is not None:
        model.add_guidance(config.stage.distillation.described())
    if config.stage.expression is not None:
        add_expression(model, config.stage.expression.sizes())
    set_trainable(model, config.stage.trainable)
    for name, parameter in model.named_parameters():
        if portrait_module(name) or (parameter.requires_grad and values):
            parameter.data = parameter.data.float()
        elif parameter.requires_grad:
            parameter.data = torch.empty_like(parameter, dtype=torch.float32)
    origin = Origin(base)
    if config.stage.init_from is not None:
        origin = load_start(model, Path(config.stage.init_from), base)
    if config.stage.distillation is not None and origin.lora is not None:
        raise InputError(
            f"stage.init_from '{config.stage.init_from}' brings a LoRA, and the teacher's weights must be its own; "
            "distil a model that was trained without one"
        )
    origin.expression, origin.padding = ExpressionSizes.of(model.config), model.config.expression_padding
    _apply_lora(model, config.stage.lora, origin)
    origin.trained = set_stage(model, config.stage)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # a LoRA that init_from brings is as it was written
    if config.attention is not None:
        _set_attention(model, config.attention)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train(), origin


class Origin:
    """Where a run's weights come from, and so what its adapter must hold."""

    def __init__(
        self,
        base: str,
        modules: list[str] | None = None,
        base_names: list[str] | None = None,
        lora: LoraSettings | None = None,
    ) -> None:
        self.base, self.modules, self.base_names, self.lora = base, modules or [], base_names or [], lora
        self.on_saved = False
        """Whether the modules that it does not bring are a saved pipeline's."""
        self.trained: list[str] = []
        """Names of what trains in this run."""
        self.expression: ExpressionSizes | None = None
        """Of the model."""
        self.padding = PADDINGS[0]
        """How its expression attention treats padding."""

    def adapter(self, config: TrainConfig, step: int) -> tuple[AdapterConfig, list[str]]:
        """The adapter's configuration after `step` steps, and the names of the base's tensors that it holds."""
        parts = {part_of(name) for name in self.trained}
        modules = [name for name in PORTRAIT_MODULES if name in {*parts, *self.modules}]
        distillation = config.stage.distillation
        base_names = {plain_name(name) for name in self.trained if part_of(name) == "base"} | set(self.base_names)
        described = AdapterConfig(
            modules=modules,
            audio_window="seconds",
            window_seconds=config.data.window_seconds,
            base=self.base,
            on_saved=self.on_saved,
            expression=self.expression.as_json() if self.expression and "expression" in modules else None,
            expression_padding=self.padding,
            distillation=None if distillation is None else distillation.described().as_json(),
            lora=None if self.lora is None else self.lora.as_json(),
            base_tensors=len(base_names),
            extra={"stage": config.stage.name, "steps": step, "ema_decay": config.optimiser.ema_decay},
        )
        return described, sorted(base_names)


def load_start(model: FantasyTalkingTransformer3DModel, source: Path, base: str) -> Origin:
    """Sets what the run starts from: an adapter folder of ours, a saved pipeline, or released weights.

    An adapter that goes on a saved pipeline goes on the base, which must be one.

    Raises:
        InputError: none of these is there, or it does not fit the model.
    """
    if (source / "model_index.json").is_file():
        return _load_saved(model, source, base)
    if source.is_dir():
        return _load_folder(model, source, base)
    check_start(str(source))
    if holds_expression(source):
        load_expression(model, source)
        return Origin(base, ["expression"])
    tensors = from_official(read_released(source))
    if (positions := model.audio_projector.positions) is not None:
        # The released weights know of no places; with none at all the model is theirs.
        tensors[POSITIONS] = torch.zeros_like(positions)
    _set(model, {"audio"}, tensors, f"'{source}'", base)
    return Origin(base, ["audio"])


def _load_folder(model: FantasyTalkingTransformer3DModel, source: Path, base: str) -> Origin:
    on_saved = read_config(source).on_saved
    if on_saved:
        if not (Path(base) / "model_index.json").is_file():
            raise InputError(
                f"stage.init_from '{source}' goes on a saved pipeline, and base '{base}' is none; give the one that it "
                "was trained on: base=FOLDER"
            )
        _load_saved(model, Path(base), base)
    adapter = load_adapter(model, source)
    lora = None if adapter.lora is None else LoraSettings.read(adapter.lora, str(source))
    origin = Origin(base, adapter.modules, trained_base_names(source), lora)
    origin.on_saved = on_saved
    return origin


def _load_saved(model: FantasyTalkingTransformer3DModel, source: Path, base: str) -> Origin:
    """The paper's modules of a saved pipeline. An adapter of what is trained on them goes on that pipeline."""
    if source.resolve() != Path(base).resolve():
        raise InputError(
            f"stage.init_from '{source}' is a saved pipeline and base is '{base}'; they must be the same folder"
        )
    modules, config = OWN, read_json(source / "transformer" / "config.json")
    sizes = ExpressionSizes.of(config)
    if sizes is not None:
        add_expression(model, sizes)
        model.register_to_config(expression_padding=config["expression_padding"])
        modules = OWN | {"expression"}
    stored: StoredTensors = open_model_folder(source / "transformer")
    tensors = {name: stored.read(name) for name in stored.shapes if portrait_module(name) in modules}
    _set(model, modules, tensors, f"'{source}'", base)
    origin = Origin(base)
    origin.on_saved = True
    return origin


def _set(
    model: FantasyTalkingTransformer3DModel, modules: Set[str], tensors: Mapping[str, Tensor], what: str, base: str
) -> None:
    state = model.state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items() if portrait_module(name) in modules}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    compare_shapes(found, wanted, what, f"it was made for another model than '{base}'")
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)


def check_start(source: str | None) -> None:
    """Holds that what a run starts from is there, if it starts from anything.

    Raises:
        InputError: it is not; names the command that makes it.
    """
    if source is not None:
        _check_base(source)
    if source is not None and not Path(source).exists():
        raise InputError(
            f"stage.init_from '{source}' is not there; for stage 2 train stage 1 first "
            "(accelerate launch scripts/train_stage1.py), or set stage.init_from to an adapter folder or null"
        )


def _apply_lora(model: FantasyTalkingTransformer3DModel, config: LoraConfig, origin: Origin) -> None:
    if not config.rank:
        return  # one that init_from brought trains on
    wanted = LoraSettings(config.rank, config.alpha, tuple(config.targets))
    if origin.lora is None:
        add_lora(model, wanted, torch.float32)
        origin.lora = wanted
    elif (wanted.rank, wanted.alpha, set(wanted.targets)) != (
        origin.lora.rank,
        origin.lora.alpha,
        set(origin.lora.targets),
    ):
        raise InputError(
            f"stage.init_from brings a LoRA of rank {origin.lora.rank}, alpha {origin.lora.alpha:g}; stage.lora says "
            f"rank {wanted.rank}, alpha {wanted.alpha:g}: make rank, alpha and targets equal"
        )


def _set_attention(model: FantasyTalkingTransformer3DModel, name: str) -> None:
    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        raise InputError(f"attention is '{name}';{suggestion(name, known)} known: {', '.join(known)}")
    try:
        model.set_attention_backend(name)
    except (RuntimeError, ImportError) as error:
        raise InputError(f"attention '{name}' cannot be used here: {str(error).splitlines()[0]}") from error
    for place, module in model.named_modules():
        if place.endswith(("attn1.norm_q", "attn1.norm_k")):
            module.register_forward_hook(_as_given)


def _as_given(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Autocast gives norms back in float32, which kernels other than PyTorch's own do not take."""
    return output.to(inputs[0].dtype)


def _check_base(base: str) -> None:
    """Holds that the nano base is there where it is what is asked for."""
    if base == load_model_config("nano").base and not Path(base).is_dir():
        raise InputError(f"the nano base '{base}' is not there; make it with: python scripts/build_nano.py")
