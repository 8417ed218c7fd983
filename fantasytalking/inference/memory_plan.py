"""Plans the memory and the operations of a generation by phase, before anything is loaded.

Computed, not measured: weights from the shapes in the files; tensors between the layers by a run of the very same code
on the meta device (`fantasytalking.inference.meta_run`). Not included: Python and its libraries, workspaces of kernels
(oneDNN, cuDNN), the allocators' fragmentation, images and sound. `fantasytalking rehearse` measures beside it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import PreTrainedModel

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.audio_windows import AUDIO_WINDOW_SECONDS, AudioWindows, tokens_per_window
from fantasytalking.encoders.single_files.building import encoder_parameter_dtype
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.loading_plan import LoadedWeights, loading_peak
from fantasytalking.inference.meta_run import MetaRun, run_on_meta
from fantasytalking.inference.optimizations import GPU_RESIDENT_COMPONENTS, TextEncoderDevice
from fantasytalking.models.cpu.attention import use_float32_attention
from fantasytalking.models.cpu.fused_block import fuse_blocks
from fantasytalking.models.cpu.memory import HEAP_GROWTH_BYTES
from fantasytalking.models.experts import Experts
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import parameter_dtype
from fantasytalking.pipeline.denoising import Denoiser, DenoisingCache, fits_in_one_call
from fantasytalking.pipeline.generation_plan import GenerationPlan, plan_generation
from fantasytalking.pipeline.guidance import guidance_at_step
from fantasytalking.pipeline.loading.options import FLOAT32_COMPONENTS
from fantasytalking.pipeline.model_facts import ModelFacts
from fantasytalking.pipeline.portrait import parse_sizes
from fantasytalking.pipeline.sliding_window import plan_windows
from fantasytalking.pipeline.timeline import Timeline
from fantasytalking.pipeline.video_conditions import VideoConditions
from fantasytalking.training.memory_estimate import CLIP_IMAGE_TOKENS


class Phase(StrEnum):
    """Phases of a generation, in their order: the text encoder is loaded, runs and is freed before anything else."""

    prompt = "prompt"
    load = "load"
    image = "image"
    first_frame = "first_frame"
    audio = "audio"
    denoise = "denoise"
    decode = "decode"


TEXT_ENCODER = "text_encoder"
PHASE_COMPONENTS = {
    Phase.prompt: TEXT_ENCODER,
    Phase.image: "image_encoder",
    Phase.first_frame: "vae",
    Phase.audio: "audio_encoder",
    Phase.denoise: "transformer",
    Phase.decode: "vae",
}
"""The component that each phase runs."""


@dataclass(frozen=True)
class VideoSize:
    """What is generated, as far as memory and time depend on it."""

    width: int
    """Pixels."""
    height: int
    timeline: Timeline
    prompt_tokens: int
    """Tokens of the longer prompt, which the text encoder reads without padding."""
    num_prompts: int = 2
    """Prompts that are encoded, empty ones not counted."""


@dataclass(frozen=True)
class PhasePlan:
    """What one phase takes."""

    phase: Phase
    device_bytes: int
    """Largest memory on the device that computes."""
    main_bytes: int
    """Largest main memory of its own that the process needs; mapped files are not included."""
    operations: float


@dataclass(frozen=True)
class Placement:
    """Where weights wait, as `fantasytalking.inference.placement` places them."""

    device_type: str
    """cpu, cuda, ...; on a CPU there is one memory and no offloading."""
    offload: str = "none"
    """none, model or group."""
    is_pinned: bool = True
    """Whether group offloading copies what waits into pinned memory, to copy ahead."""
    text_encoder_on_cpu: bool = False

    @classmethod
    def of(cls, config: InferConfig, device_type: str, offload: str) -> "Placement":
        """Returns the placement of a configuration, whose offloading may have been chosen by the memory."""
        settings = config.optimizations
        on_cpu = settings.text_encoder_device is TextEncoderDevice.cpu
        return cls(device_type, offload, settings.offload_prefetch, on_cpu)


def plan_phases(
    weights: Mapping[str, LoadedWeights], runs: Mapping[Phase, MetaRun], placement: Placement
) -> list[PhasePlan]:
    """Returns what each phase takes.

    Args:
        weights: by component, in the order of loading.
        runs: of `run_phases`.
    """
    plans = []
    text = {name: each for name, each in weights.items() if name == TEXT_ENCODER}
    others = {name: each for name, each in weights.items() if name != TEXT_ENCODER}
    if Phase.prompt in runs:
        plans.append(_plan_prompt(text[TEXT_ENCODER], runs[Phase.prompt], placement))
    peak = loading_peak(others)
    on_device = peak if placement.device_type == "cpu" else _loaded_device_bytes(others, placement.offload)
    plans.append(PhasePlan(Phase.load, on_device, peak, 0.0))
    done: set[str] = set()
    for phase, run in runs.items():
        if phase is Phase.prompt:
            continue
        done |= {name for name in others if _runs_in(name, phase)}
        activations = run.peak_bytes + max(others[name].dequantized for name in others if _runs_in(name, phase))
        if placement.device_type == "cpu":
            is_retained = phase is Phase.denoise and not any(each.dequantized for each in others.values())
            held = sum(each.own for each in others.values()) + activations + (HEAP_GROWTH_BYTES if is_retained else 0)
            plans.append(PhasePlan(phase, held, held, run.operations))
            continue
        main = _offloaded_main_bytes(others, placement, done)
        resident = _resident_bytes(others, phase, placement.offload)
        plans.append(PhasePlan(phase, resident + activations, main, run.operations))
    return plans


def _plan_prompt(weights: LoadedWeights, run: MetaRun, placement: Placement) -> PhasePlan:
    """The text encoder is alone in memory."""
    loading = loading_peak({TEXT_ENCODER: weights})
    run = run._replace(peak_bytes=run.peak_bytes + weights.dequantized)
    if placement.device_type == "cpu":
        held = max(loading, weights.own + run.peak_bytes)
        return PhasePlan(Phase.prompt, held, held, run.operations)
    if placement.text_encoder_on_cpu:
        return PhasePlan(Phase.prompt, 0, max(loading, weights.own + run.peak_bytes), run.operations)
    if placement.offload != "group":
        return PhasePlan(Phase.prompt, weights.total + run.peak_bytes, loading, run.operations)
    main = max(loading, weights.total if placement.is_pinned else weights.own)
    return PhasePlan(Phase.prompt, weights.onloaded_group + run.peak_bytes, main, run.operations)


def _runs_in(component: str, phase: Phase) -> bool:
    return component.removesuffix("_2") == PHASE_COMPONENTS[phase]


def _loaded_device_bytes(weights: Mapping[str, LoadedWeights], offload: str) -> int:
    """Bytes on a GPU once everything is loaded."""
    if offload == "none":
        return sum(each.total for each in weights.values())
    return sum(weights[name].total for name in GPU_RESIDENT_COMPONENTS if name in weights) if offload == "group" else 0


def _resident_bytes(weights: Mapping[str, LoadedWeights], phase: Phase, offload: str) -> int:
    """Most bytes of the weights on a GPU in a phase."""
    running = [name for name in weights if _runs_in(name, phase)]
    if offload == "model":
        return max(weights[name].total for name in running)
    moved = [weights[name].onloaded_group for name in running if name not in GPU_RESIDENT_COMPONENTS]
    return _loaded_device_bytes(weights, offload) + (max(moved, default=0) if offload == "group" else 0)


def _offloaded_main_bytes(weights: Mapping[str, LoadedWeights], placement: Placement, done: Collection[str]) -> int:
    """Main memory of the process for weights that wait there: what comes back from a GPU is no longer mapped."""
    if placement.offload == "none":
        return 0
    waiting = dict(weights)
    if placement.offload == "group":
        waiting = {name: each for name, each in weights.items() if name not in GPU_RESIDENT_COMPONENTS}
        if placement.is_pinned:
            return sum(each.total for each in waiting.values())
    return sum(each.total if name in done else each.own for name, each in waiting.items())


def run_configuration(
    config: InferConfig, facts: ModelFacts, models: Mapping[str, Any], frames: int, device_type: str, device_memory: int
) -> dict[Phase, MetaRun]:
    """Returns `run_phases` of a configuration whose video has `frames` frames, in the first of its sizes.

    A prompt counts as many tokens as bytes, which is more than umT5's tokenizer returns.

    Raises:
        InputError: as `plan_generation`.
    """
    plan = plan_generation(facts, config.controls(), has_audio=True)
    prompts = [text for text in dict.fromkeys((plan.prompt, plan.negative_prompt)) if text]
    size = parse_sizes(config.sizes)[0]
    video = VideoSize(
        size.width,
        size.height,
        Timeline.from_frames(frames, plan.fps, plan.geometry.temporal_stride),
        min(config.max_text_tokens, 1 + max((len(text.encode()) for text in prompts), default=0)),
        len(prompts),
    )
    return run_phases(
        models,
        plan,
        video,
        config.dtype.torch_dtype,
        device_type,
        device_memory,
        max_text_tokens=config.max_text_tokens,
        vae_tiling=config.optimizations.vae_tiling,
    )


def run_phases(
    models: Mapping[str, Any],
    plan: GenerationPlan,
    size: VideoSize,
    dtype: torch.dtype,
    device_type: str,
    device_memory: int,
    window_seconds: float = AUDIO_WINDOW_SECONDS,
    max_text_tokens: int = 512,
    vae_tiling: bool = False,
) -> dict[Phase, MetaRun]:
    """Returns what the activations of each phase take, and its operations, by running it on the meta device.

    Args:
        models: components on the meta device, by name; they are changed to the dtypes and, for a CPU, to the attention
            that is used there.
        plan: controls of the generation.
        dtype: of all components but `FLOAT32_COMPONENTS`.
        device_type: device that is to compute.
        device_memory: its memory in bytes.
        window_seconds: length of the audio windows.
        max_text_tokens: tokens that prompts are padded to.
        vae_tiling: whether the VAE works on tiles.
    """
    on_cpu = device_type == "cpu"
    for name, model in models.items():
        _cast(model, torch.float32 if name in FLOAT32_COMPONENTS else dtype)
    transformer, vae = models["transformer"], models["vae"]
    assert isinstance(transformer, FantasyTalkingTransformer3DModel) and isinstance(vae, AutoencoderKLWan)
    if on_cpu:
        fuse_blocks(transformer)
        if dtype is torch.bfloat16:
            use_float32_attention(transformer)
    autoencoder = VideoAutoencoder(vae)
    if vae_tiling:
        vae.enable_tiling()
    latents = _latent_shape(plan, size, transformer.config.out_channels)
    windows = plan_windows(latents[2], plan.window_length, plan.window_overlap)
    window_frames = len(windows[0].frame_indices)
    cache = DenoisingCache()

    def denoiser() -> Callable[[Tensor], Tensor]:
        conditions = _meta_conditions(transformer, plan, size, window_frames, dtype, window_seconds, max_text_tokens)
        batched = fits_in_one_call(Experts(transformer, None, None), conditions, window_frames, device_memory)
        model = Denoiser(
            Experts(transformer, None, None),
            conditions,
            windows,
            batch_branches=batched if plan.guidance.batch_branches is None else plan.guidance.batch_branches,
            on_window_done=lambda: None,
            cache=cache,
        )
        guidance = guidance_at_step(plan.guidance, 0, plan.num_inference_steps, conditions.available)
        return lambda latents: model.predict(latents, torch.zeros(()), guidance)

    work: dict[Phase, Callable[[], object]] = {
        Phase.prompt: lambda: models[TEXT_ENCODER](
            torch.zeros(1, size.prompt_tokens, dtype=torch.long), torch.ones(1, size.prompt_tokens, dtype=torch.long)
        ),
        Phase.image: lambda: models["image_encoder"](
            pixel_values=torch.empty(1, 3, *[models["image_encoder"].config.image_size] * 2, dtype=dtype),
            output_hidden_states=True,
        ),
        Phase.first_frame: lambda: autoencoder.encode_first_frame(
            torch.empty(1, 3, size.height, size.width, dtype=torch.uint8),
            1 + (window_frames - 1) * plan.geometry.temporal_stride,
        ),
        Phase.audio: lambda: models["audio_encoder"](
            torch.empty(1, round(size.timeline.padded_frames / size.timeline.fps * AUDIO_SAMPLE_RATE))
        ),
        Phase.denoise: lambda: denoiser()(torch.empty(latents)),
        Phase.decode: lambda: [None for _ in autoencoder.iter_decode(torch.empty(latents))],
    }
    repeats = {Phase.prompt: size.num_prompts, Phase.denoise: plan.num_inference_steps}
    runs = {}
    for phase, call in work.items():
        if PHASE_COMPONENTS[phase] in models:
            run = run_on_meta(call, models.values())
            runs[phase] = run._replace(operations=run.operations * repeats.get(phase, 1))
    if "transformer_2" in models:  # the other expert has a cache of its own
        run = runs[Phase.denoise]
        runs[Phase.denoise] = run._replace(peak_bytes=run.peak_bytes + cache.nbytes())
    return runs


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    dtype_of = encoder_parameter_dtype if isinstance(model, PreTrainedModel) else parameter_dtype
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype_of(model, name, dtype))


def _latent_shape(plan: GenerationPlan, size: VideoSize, channels: int) -> tuple[int, ...]:
    stride = plan.geometry.spatial_stride
    return 1, channels, size.timeline.num_latent_frames, size.height // stride, size.width // stride


def _meta_conditions(
    transformer: FantasyTalkingTransformer3DModel,
    plan: GenerationPlan,
    size: VideoSize,
    window_frames: int,
    dtype: torch.dtype,
    window_seconds: float,
    max_text_tokens: int,
) -> VideoConditions:
    """The conditions of one person who speaks, without a driving video."""
    config, frames = transformer.config, size.timeline.num_latent_frames
    _, channels, _, height, width = _latent_shape(plan, size, config.out_channels)
    prompt = torch.empty(1, max_text_tokens, config.text_dim, dtype=dtype)
    audio = torch.empty(1, frames, tokens_per_window(window_seconds), config.audio_dim)
    grid = (window_frames, height, width)
    image = None if config.image_dim is None else torch.empty(1, CLIP_IMAGE_TOKENS, config.image_dim, dtype=dtype)
    shape = transformer.image_conditioning.image_latents_shape(config.in_channels, channels, grid)
    return VideoConditions(
        prompt_embeds=prompt,
        negative_prompt_embeds=prompt if plan.prompt == plan.negative_prompt else torch.empty_like(prompt),
        image_embeds=image,
        image_latents=torch.empty(1, *shape, dtype=dtype),
        audio_windows=AudioWindows(audio, torch.ones(audio.shape[:3], dtype=torch.bool)),
        face_embeds=torch.empty(1, 1, config.face_dim, dtype=dtype),
        motion_intensity=torch.empty(1, 2, dtype=dtype),
        face_scale=plan.face_scale,
        temporal_stride=plan.geometry.temporal_stride,
    )
