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
from fantasytalking.inference.model_files import Weights, find_weights
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline.config import InferConfig, Offload
from fantasytalking.pipeline.distillation_limits import goes_on_saved
from fantasytalking.pipeline.optimizations import apply_savings, choose_offload
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.schedulers import Sampler, make_scheduler

PARTS = 5
"""VAE, text, image and audio encoder, transformer."""


class Workplace(NamedTuple):
    """Where the model of a configuration is, and where it works."""

    weights: Weights
    device: torch.device


def workplace(config: InferConfig, *, driven: bool = False, several: bool = False) -> Workplace:
    """The weights of a configuration and its device.

    Args:
        driven: whether videos drive the faces, so that what that needs is looked for and loaded.
        several: whether several people speak, likewise.

    Raises:
        InputError: weights are missing, or there is no such device.
    """
    return Workplace(find_weights(config, driven=driven, several=several), _device(config))


def load_pipeline(config: InferConfig, weights: Weights, device: torch.device) -> FantasyTalkingPipeline:
    """The pipeline of a configuration, on its device.

    Raises:
        InputError: a part is damaged, incomplete or of another kind.
    """
    dtype = getattr(torch, config.precision.value)
    is_saved = weights.adapter is None or goes_on_saved(weights.adapter)
    with tqdm(total=PARTS, desc="load", unit=" parts", leave=True) as bar:

        def progress(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        if is_saved:
            _check_encoders(config, weights)
            pipe = FantasyTalkingPipeline.from_pretrained(
                weights.base,
                adapter=weights.adapter,
                expression_adapter=weights.expression_adapter,
                torch_dtype=dtype,
                progress=progress,
            )
        else:
            assert weights.adapter is not None, "a pipeline without one was saved whole"
            pipe = FantasyTalkingPipeline.from_base(
                weights.base,
                weights.adapter,
                portrait=asdict(load_model_config(config.model).portrait),
                expression_adapter=weights.expression_adapter,
                audio_encoder=weights.audio_encoder,
                face_encoder=weights.face_encoder,
                scheduler=make_scheduler(config.sampler, config.shift),
                text_length=config.text_length,
                torch_dtype=dtype,
                progress=progress,
            )
    if is_saved:
        _tell_settings(pipe, config, weights)
    pipe.expression_network = weights.expression_encoder or pipe.expression_network
    apply_savings(pipe.transformer, config.savings, device)
    offload = config.offload
    if config.savings.gpu_gib is not None:
        offload = Offload(choose_offload(pipe.part_bytes(), config.savings.gpu_gib))
    if offload is Offload.model:
        pipe.enable_model_cpu_offload(device=device)
    elif offload is Offload.group:
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)
    return pipe


def _check_encoders(config: InferConfig, weights: Weights) -> None:
    """Holds that no other encoder was asked for than a saved pipeline brings itself.

    Raises:
        InputError: one was.
    """
    for name in ("audio_encoder", "face_encoder"):
        if getattr(config, name) is not None:
            raise InputError(
                f"{name} is '{getattr(config, name)}', but '{weights.base}' is a saved pipeline, which has its own; "
                f"set {name}=null"
            )


def _tell_settings(pipe: FantasyTalkingPipeline, config: InferConfig, weights: Weights) -> None:
    """Tells what was asked for, by a preset or by hand, and a saved pipeline has otherwise: its own holds."""
    plain, own = InferConfig(), make_scheduler(config.sampler, config.shift)
    alike = {
        "sampler": isinstance(pipe.scheduler, type(own)),
        "shift": getattr(pipe.scheduler, "shift", config.shift) == config.shift,
        "text_length": pipe.text_length == config.text_length,
    }
    for name, is_alike in alike.items():
        value = getattr(config, name)
        if value != getattr(plain, name) and not is_alike:
            said = value.value if isinstance(value, Sampler) else value
            sys.stderr.write(f"note: {name}={said} is not used: '{weights.base}' was saved with another, which holds\n")


def describe(device: torch.device) -> str:
    """Name of a device, as records hold it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def repeatable() -> Iterator[None]:
    """Arithmetic that gives the same bits each time, where PyTorch has it; a warning where it has not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _device(config: InferConfig) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise InputError("device is 'cuda', but there is no CUDA device; use device=cpu")
    device = torch.device("cuda" if available and config.device != "cpu" else "cpu")
    if config.savings.gpu_gib is not None and device.type == "cpu":
        raise InputError(f"savings.gpu_gib is {config.savings.gpu_gib:g}, but the device is the CPU; leave it out")
    if config.offload is not Offload.none and device.type == "cpu":
        raise InputError(f"offload is '{config.offload.value}', but the device is the CPU; use offload=none")
    return device
