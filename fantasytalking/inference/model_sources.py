"""Resolves the weights and the device of a configuration, and loads the pipeline with the requested optimizations."""

import gc
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fantasytalking.checkpoints.released_audio import projector_beside
from fantasytalking.common.devices import resolve_device
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import CHECKPOINTS_FOLDER, HUB_ID, resolve_local
from fantasytalking.common.weight_files import WEIGHT_SUFFIXES
from fantasytalking.inference.config import InferConfig, Offload
from fantasytalking.inference.console import notify
from fantasytalking.inference.download_hints import download_hint
from fantasytalking.inference.optimizations import (
    TextEncoderDevice,
    WeightQuantization,
    apply_optimizations,
)
from fantasytalking.inference.placement import place_pipeline, place_text_encoder
from fantasytalking.models.cpu.memory import retain_freed_memory_while_running, return_freed_memory
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.stored_linear import stored_weight_names
from fantasytalking.pipeline.loading.component_files import resolve_components
from fantasytalking.pipeline.loading.encoder_checks import check_audio_encoder_config
from fantasytalking.pipeline.loading.model_components import align_weights
from fantasytalking.pipeline.loading.stored_model import StoredModel
from fantasytalking.pipeline.loading.stored_text_encoder import load_stored_text_encoder
from fantasytalking.pipeline.model_facts import ModelFacts
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.prompts import EncodedPrompts
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler

EXPRESSION_ADAPTER_FOLDER = "expression_adapter"
"""Folder in a base of an expression adapter that extends it."""
NUM_ENCODERS = 3
"""VAE, text and audio encoder."""


@dataclass(frozen=True)
class ResolvedModel:
    """A configuration's weights, facts and device, resolved and read once."""

    stored: StoredModel
    """Base, adapters and encoders, with their descriptions."""
    facts: ModelFacts
    audio_encoder: Path | None
    """Separate audio encoder; None: the one in the base."""
    face_encoder: Path | None
    """Separate ArcFace .onnx; None: the one in the base."""
    expression_encoder: Path | None
    """None: nothing drives the faces, or there is no encoder."""
    loras: dict[str, Path]
    """LoRAs of the optimizations, by the names that records use."""
    device: torch.device
    dtype: torch.dtype
    """Of transformers, text and image encoder."""

    @property
    def paths(self) -> dict[str, Path]:
        """Existing paths, by the names that records use."""
        named = {
            "base": self.stored.base,
            "adapter": self.stored.adapter,
            "adapter_projector": None if self.stored.adapter is None else projector_beside(self.stored.adapter),
            "adapter_2": self.stored.adapter_2,
            "audio_encoder": self.audio_encoder,
            "face_encoder": self.face_encoder,
            "expression_adapter": self.stored.expression_adapter,
            "expression_encoder": self.expression_encoder,
            **{f"components.{name}": path for name, path in self.stored.components.items()},
            **self.loras,
        }
        return {name: path for name, path in named.items() if path is not None}

    def paths_used(self, has_driving_video: bool) -> dict[str, Path]:
        """Returns the paths that affect a video with or without driving videos, by the names that records use."""
        unused = set() if has_driving_video else {"expression_encoder"}
        if not has_driving_video and not self.stored.expression_adapter_affects_speech:
            unused.add("expression_adapter")
        return {name: path for name, path in self.paths.items() if name not in unused}


def resolve_model(
    config: InferConfig, *, has_driving_video: bool = False, is_multi_speaker: bool = False
) -> ResolvedModel:
    """Resolves the weights and the device of a configuration. Nothing is downloaded.

    A hub id is looked up in checkpoints/NAME and then in the local cache of the hub.

    Args:
        has_driving_video: also resolve what driving videos need, where it exists.
        is_multi_speaker: also resolve an expression adapter that separates several speakers.

    Raises:
        InputError: weights are missing (one line with command, size and license of each), a description is malformed,
            or the device does not exist.
    """
    names = source_names(config, has_driving_video=has_driving_video, is_multi_speaker=is_multi_speaker)
    loras = {name: file.path for name, file in config.optimizations.lora_files().items()}
    assert names["base"] is not None, "a preset names its base"
    found = resolve_paths(names, base_source=names["base"])
    stored = _read_stored_model(found, has_driving_video=has_driving_video, is_multi_speaker=is_multi_speaker)
    config.optimizations.check_experts(len(stored.experts) > 1)
    _check_stored_quantization(config, stored)
    if stored.extends_saved_pipeline:
        check_audio_encoder_config(stored, None, None)
    else:
        check_audio_encoder_config(stored, found["audio_encoder"], load_model_config(config.model).portrait.audio_dim)
    return ResolvedModel(
        stored,
        stored.facts(),
        found["audio_encoder"],
        found["face_encoder"],
        stored.expression_encoder if has_driving_video else None,
        {name: found[name] or Path(path) for name, path in loras.items()},
        _resolve_device(config),
        config.dtype.torch_dtype,
    )


def source_names(
    config: InferConfig, *, has_driving_video: bool = False, is_multi_speaker: bool = False
) -> dict[str, str | None]:
    """Returns the path or hub id of every source of weights by its key; None for those that are not needed."""
    files = config.components.given()
    return {
        "base": _base_name(config, files),
        "adapter": config.adapter,
        "adapter_2": config.adapter_2,
        "audio_encoder": files.pop("audio_encoder", config.audio_encoder),
        "face_encoder": config.face_encoder,
        "expression_adapter": config.expression_adapter if has_driving_video or is_multi_speaker else None,
        "expression_encoder": config.expression_encoder if has_driving_video else None,
        **{f"components.{name}": file for name, file in files.items()},
        **{name: file.path for name, file in config.optimizations.lora_files().items()},
    }


def resolve_paths(names: Mapping[str, str | None], base_source: str) -> dict[str, Path | None]:
    """Returns the local path of each folder, file or hub id; None for entries that are None.

    Args:
        base_source: folder whose missing parts are reported as the folder.

    Raises:
        InputError: some do not exist; one line with command, size and license of each.
    """
    found = {name: None if source is None else find_source(source) for name, source in names.items()}
    missing = [source for name, source in names.items() if source is not None and found[name] is None]
    # The parts of the miniature model lie in one folder, which one command creates.
    missing = [source for source in missing if not (source != base_source and source.startswith(f"{base_source}/"))]
    if missing:
        raise InputError(
            f"weights are missing: {'; '.join(download_hint(source) for source in missing)}",
            code=ErrorCode.missing_weights,
            field=next(name for name, source in names.items() if source == missing[0]),
            value=missing[0],
        )
    return found


def load_pipeline(
    config: InferConfig,
    model: ResolvedModel,
    prompts: Collection[str] | None = None,
    on_prompts_encoded: Callable[[], object] = lambda: None,
) -> FantasyTalkingPipeline:
    """Loads the pipeline of a configuration on its device, with the requested optimizations.

    Args:
        prompts: the only prompts that the pipeline is to follow. They are encoded first, and the text encoder, umT5-XXL
            with more than 5 billion weights, is freed before any other component is loaded; None: it is kept.
        on_prompts_encoded: called once it is freed.

    Raises:
        InputError: a component is damaged, incomplete or of another kind.
    """
    is_saved, is_for_cpu = model.stored.extends_saved_pipeline, model.device.type == "cpu"
    total = NUM_ENCODERS + model.stored.has_image_encoder + len(model.stored.experts)
    with tqdm(total=total, desc="load", unit=" parts", leave=True) as bar:

        def progress(component: str) -> None:
            bar.set_postfix_str(component)
            bar.update()

        given: dict[str, Any] = {}
        if is_saved:
            _reject_encoder_overrides(config, model)
        if prompts is not None:
            encoded = _encode_prompts(config, model, prompts)
            progress("text encoder")
            on_prompts_encoded()
            given = {"text_encoder": None, "tokenizer": None}
        if is_saved:
            pipe = FantasyTalkingPipeline.from_stored_model(
                model.stored, is_for_cpu=is_for_cpu, given=given, torch_dtype=model.dtype, progress=progress
            )
        else:
            pipe = FantasyTalkingPipeline.from_stored_model(
                model.stored,
                is_for_cpu=is_for_cpu,
                given=given,
                module_config=asdict(load_model_config(config.model).portrait),
                audio_encoder=model.audio_encoder,
                scheduler=make_scheduler(config.scheduler, config.flow_shift),
                text_length=config.max_text_tokens,
                torch_dtype=model.dtype,
                keep_quantized=config.optimizations.quantization is WeightQuantization.stored,
                progress=progress,
            )
    if prompts is not None:
        pipe.encoded_prompts = encoded
    elif config.optimizations.text_encoder_device is TextEncoderDevice.cpu:
        align_weights({"text_encoder": pipe.text_encoder})
    if is_saved:
        _report_ignored_settings(pipe, config, model)
    apply_optimizations(pipe.experts, config.optimizations, model.device)
    if model.device.type == "cpu":
        dense = [transformer for transformer in pipe.experts if not stored_weight_names(transformer)]
        retain_freed_memory_while_running(dense, [pipe.vae.encoder.conv_in, pipe.vae.decoder.conv_in])
    if config.optimizations.vae_tiling:
        pipe.vae.enable_tiling()
    place_pipeline(pipe, config, model.device)
    return_freed_memory()  # of layers that were initialized, converted or moved to the device
    return pipe


def _encode_prompts(config: InferConfig, model: ResolvedModel, prompts: Collection[str]) -> EncodedPrompts:
    """Loads the text encoder, encodes the prompts and frees it."""
    keep_quantized = config.optimizations.quantization is WeightQuantization.stored
    encoder = load_stored_text_encoder(model.stored, model.dtype, config.max_text_tokens, keep_quantized)
    is_for_cpu = model.device.type == "cpu" or config.optimizations.text_encoder_device is TextEncoderDevice.cpu
    if is_for_cpu:
        align_weights({"text_encoder": encoder.model})
    place_text_encoder(encoder.model, config, model.device)
    encoded = EncodedPrompts.encode(encoder, prompts)
    del encoder
    gc.collect()  # hooks of offloading refer to the modules that they belong to
    return_freed_memory()
    if model.device.type != "cpu":
        torch.accelerator.empty_cache()
    return encoded


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Selects deterministic algorithms where PyTorch has them, and warns where it has not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _read_stored_model(
    found: Mapping[str, Path | None], *, has_driving_video: bool, is_multi_speaker: bool
) -> StoredModel:
    """The weights as read, with the expression adapter where the video needs it."""
    base = found["base"]
    assert base is not None, "the base is always named"
    given = {
        name.removeprefix("components."): path
        for name, path in found.items()
        if name.startswith("components.") and path is not None
    }
    components = resolve_components(base, given, found["audio_encoder"])
    stored = StoredModel.read(
        base,
        found["adapter"],
        adapter_2=found["adapter_2"],
        expression_adapter=found["expression_adapter"],
        face_encoder=found["face_encoder"],
        expression_encoder=found["expression_encoder"],
        components=components,
    )
    inside = base / EXPRESSION_ADAPTER_FOLDER
    is_wanted = has_driving_video or is_multi_speaker
    if is_wanted and "expression" not in stored.trained_modules and inside.is_dir():
        stored = stored.with_expression_adapter(inside, found["expression_encoder"])
    if has_driving_video or (is_multi_speaker and stored.expression_adapter_affects_speech):
        return stored
    return stored.with_expression_adapter(None)


def _base_name(config: InferConfig, files: Mapping[str, str]) -> str:
    """The configured base, the preset's, or a transformer's file where the preset's is not on this machine."""
    preset = load_model_config(config.model).base
    if config.base is None and "transformer" in files and find_source(preset) is None:
        return files["transformer"]
    return config.base or preset


def find_source(path_or_id: str) -> Path | None:
    """Returns the file or folder of a path or hub id on this machine; None: it is not here."""
    path = Path(resolve_local(path_or_id))
    if path.exists():
        return path
    is_file_name = path_or_id.startswith(f"{CHECKPOINTS_FOLDER}/") or path_or_id.endswith(WEIGHT_SUFFIXES)
    if not HUB_ID.fullmatch(path_or_id) or is_file_name:
        return None
    return _cached_snapshot(path_or_id)


def _cached_snapshot(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _resolve_device(config: InferConfig) -> torch.device:
    device, limit = resolve_device(config.device), config.optimizations.vram_limit_gib
    if limit is not None and device.type == "cpu":
        raise InputError(
            f"optimizations.vram_limit_gib is {limit:g}, but the device is the CPU; leave it out",
            code=ErrorCode.conflict,
            field="optimizations.vram_limit_gib",
            value=limit,
        )
    if config.offload is not Offload.none and device.type == "cpu":
        raise InputError(
            f"offload is '{config.offload.value}', but the device is the CPU; use offload=none",
            code=ErrorCode.conflict,
            field="offload",
            value=config.offload.value,
        )
    return device


def _check_stored_quantization(config: InferConfig, model: StoredModel) -> None:
    """A saved pipeline is in diffusers' layout, which has no quantized files."""
    if config.optimizations.quantization is WeightQuantization.stored and model.extends_saved_pipeline:
        raise InputError(
            f"optimizations.quantization is stored, but '{model.base}' is a saved pipeline, whose weights are not "
            "quantized; use none, int8 or float8",
            code=ErrorCode.conflict,
            field="optimizations.quantization",
            value="stored",
        )


def _reject_encoder_overrides(config: InferConfig, model: ResolvedModel) -> None:
    """Raises where another encoder is configured than the one that a saved pipeline contains."""
    for name in ("audio_encoder", "face_encoder"):
        value = getattr(config, name)
        if value is not None:
            raise InputError(
                f"{name} is '{value}', but '{model.stored.base}' is a saved pipeline, which has its own; set "
                f"{name}=null",
                code=ErrorCode.conflict,
                field=name,
                value=value,
            )


def _report_ignored_settings(pipe: FantasyTalkingPipeline, config: InferConfig, model: ResolvedModel) -> None:
    """Prints the settings that a saved pipeline overrides."""
    default, own = InferConfig(), make_scheduler(config.scheduler, config.flow_shift)
    is_followed = {
        "scheduler": isinstance(pipe.scheduler, type(own)),
        "flow_shift": getattr(pipe.scheduler, "shift", config.flow_shift) == config.flow_shift,
        "max_text_tokens": pipe.config.text_length == config.max_text_tokens,
    }
    for name, followed in is_followed.items():
        value = getattr(config, name)
        if value != getattr(default, name) and not followed:
            shown = value.value if isinstance(value, SchedulerType) else value
            notify(f"note: {name}={shown} is not used: '{model.stored.base}' was saved with another value, which holds")
