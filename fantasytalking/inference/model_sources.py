"""Where the model of a configuration is and where it works; loading it there, with what was chosen to save."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import NamedTuple

import torch
from tqdm import tqdm

from fantasytalking.common.errors import InputError
from fantasytalking.inference.model_files import ModelFiles, find_model_files
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline.config import InferConfig, Offload
from fantasytalking.pipeline.distillation_limits import extends_saved_pipeline
from fantasytalking.pipeline.optimizations import apply_optimizations, choose_offload
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler

NUM_COMPONENTS = 5
"""VAE, text, image and audio encoder, transformer."""


class ResolvedModel(NamedTuple):
    """Where the model of a configuration is, and where it works."""

    files: ModelFiles
    device: torch.device


def resolve_model(
    config: InferConfig, *, has_driving_video: bool = False, is_multi_speaker: bool = False
) -> ResolvedModel:
    """The weights of a configuration and its device.

    Args:
        has_driving_video: whether videos drive the faces, so that what that needs is looked for and loaded.
        is_multi_speaker: whether several people speak, likewise.

    Raises:
        InputError: weights are missing, or there is no such device.
    """
    return ResolvedModel(
        find_model_files(config, has_driving_video=has_driving_video, is_multi_speaker=is_multi_speaker),
        _resolve_device(config),
    )


def load_pipeline(config: InferConfig, files: ModelFiles, device: torch.device) -> FantasyTalkingPipeline:
    """The pipeline of a configuration, on its device.

    Raises:
        InputError: a part is damaged, incomplete or of another kind.
    """
    dtype = config.dtype.torch_dtype
    is_saved = files.adapter is None or extends_saved_pipeline(files.adapter)
    with tqdm(total=NUM_COMPONENTS, desc="load", unit=" parts", leave=True) as bar:

        def progress(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        if is_saved:
            _reject_encoder_overrides(config, files)
            pipe = FantasyTalkingPipeline.from_pretrained(
                files.base,
                adapter=files.adapter,
                expression_adapter=files.expression_adapter,
                torch_dtype=dtype,
                progress=progress,
            )
        else:
            assert files.adapter is not None, "a pipeline without one was saved whole"
            pipe = FantasyTalkingPipeline.from_base(
                files.base,
                files.adapter,
                portrait=asdict(load_model_config(config.model).portrait),
                expression_adapter=files.expression_adapter,
                audio_encoder=files.audio_encoder,
                face_encoder=files.face_encoder,
                scheduler=make_scheduler(config.scheduler, config.flow_shift),
                text_length=config.max_text_tokens,
                torch_dtype=dtype,
                progress=progress,
            )
    if is_saved:
        _report_ignored_settings(pipe, config, files)
    pipe.expression_encoder_path = files.expression_encoder or pipe.expression_encoder_path
    apply_optimizations(pipe.transformer, config.optimizations, device)
    offload = config.offload
    if config.optimizations.vram_limit_gib is not None:
        offload = Offload(choose_offload(pipe.component_bytes(), config.optimizations.vram_limit_gib))
    if offload is Offload.model:
        pipe.enable_model_cpu_offload(device=device)
    elif offload is Offload.group:
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)
    return pipe


def _reject_encoder_overrides(config: InferConfig, files: ModelFiles) -> None:
    """Holds that no other encoder was asked for than a saved pipeline brings itself.

    Raises:
        InputError: one was.
    """
    for name in ("audio_encoder", "face_encoder"):
        if getattr(config, name) is not None:
            raise InputError(
                f"{name} is '{getattr(config, name)}', but '{files.base}' is a saved pipeline, which has its own; "
                f"set {name}=null"
            )


def _report_ignored_settings(pipe: FantasyTalkingPipeline, config: InferConfig, files: ModelFiles) -> None:
    """Tells what was asked for, by a preset or by hand, and a saved pipeline has otherwise: its own holds."""
    plain, own = InferConfig(), make_scheduler(config.scheduler, config.flow_shift)
    alike = {
        "sampler": isinstance(pipe.scheduler, type(own)),
        "shift": getattr(pipe.scheduler, "shift", config.flow_shift) == config.flow_shift,
        "text_length": pipe.max_text_tokens == config.max_text_tokens,
    }
    for name, is_alike in alike.items():
        value = getattr(config, name)
        if value != getattr(plain, name) and not is_alike:
            said = value.value if isinstance(value, SchedulerType) else value
            sys.stderr.write(f"note: {name}={said} is not used: '{files.base}' was saved with another, which holds\n")


def device_name(device: torch.device) -> str:
    """Name of a device, as records hold it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Arithmetic that gives the same bits each time, where PyTorch has it; a warning where it has not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _resolve_device(config: InferConfig) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise InputError("device is 'cuda', but there is no CUDA device; use device=cpu")
    device = torch.device("cuda" if available and config.device != "cpu" else "cpu")
    if config.optimizations.vram_limit_gib is not None and device.type == "cpu":
        raise InputError(
            f"optimizations.vram_limit_gib is {config.optimizations.vram_limit_gib:g}, but the device is the CPU; "
            "leave it out"
        )
    if config.offload is not Offload.none and device.type == "cpu":
        raise InputError(f"offload is '{config.offload.value}', but the device is the CPU; use offload=none")
    return device
