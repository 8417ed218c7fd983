"""Benchmark row training_step: one optimizer step of adapters, of LoRA and adapters, and of all parameters.

Each variant runs in its own process, so that peak memory is measured separately. They step in alternation, so that the
ratios hold on a busy machine.
"""

import multiprocessing
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter

import torch
from torch import Tensor

from fantasytalking.audio_windows import AUDIO_WINDOW_SECONDS
from fantasytalking.benchmarking.interleaved_timing import peak_memory_gib
from fantasytalking.checkpoints.lora import LoraSpec, add_lora
from fantasytalking.common.devices import synchronize
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import TrainingBatch
from fantasytalking.models.cpu.attention import use_matmul_attention
from fantasytalking.models.presets import load_model_config, transformer_kwargs
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.training.config import OptimizerConfig
from fantasytalking.training.losses import FlowMatchingObjective
from fantasytalking.training.model_setup import compile_blocks
from fantasytalking.training.optimizers import build_optimizer
from fantasytalking.training.parameter_groups import set_trainable
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.stage_config import DropoutConfig, LoraConfig, LossConfig

TRAINING_STEP_TIMEOUT = 1800.0
"""Seconds after which waiting for a process fails."""
LORA_RANK = 64
AUDIO_TOKENS_PER_SECOND = 50
"""Token rate of wav2vec2."""
FRAMES_PER_LATENT_FRAME, TRAINING_STEP_FPS = 4, 25


@dataclass(frozen=True)
class TrainingStepSize:
    """Size of the model and its batch."""

    preset: str
    """Preset that determines the width."""
    layers: int
    latents: tuple[int, int, int]
    """Latent frames, height and width."""
    batch_size: int
    rounds: int
    gradient_checkpointing: bool
    text_tokens: int = 512
    image_tokens: int = 257


CPU_TRAINING_STEP_SIZE = TrainingStepSize(
    "wan1.3b", layers=2, latents=(3, 16, 16), batch_size=1, rounds=3, gradient_checkpointing=False
)
GPU_TRAINING_STEP_SIZE = TrainingStepSize(
    "wan1.3b", layers=30, latents=(21, 64, 64), batch_size=1, rounds=5, gradient_checkpointing=True
)
"""Full depth, 81 frames at 512 px."""

ADAPTER_PATTERNS = ("audio", "face", "motion")


@dataclass(frozen=True)
class TrainingVariant:
    """What trains, and how a step is computed."""

    trainable: tuple[str, ...] = ADAPTER_PATTERNS
    """Patterns of the parameters that train."""
    lora_rank: int = 0
    """Rank of LoRA; 0 = none."""
    matmul_attention: bool = True
    """Attention by matrix products in bfloat16 on a CPU, as in the trainer."""
    compiled: bool = False
    """Whether blocks are compiled."""


TRAINING_VARIANTS = {
    "adapters (audio, face, motion)": TrainingVariant(),
    f"adapters and LoRA of rank {LORA_RANK}": TrainingVariant(lora_rank=LORA_RANK),
    "everything": TrainingVariant(("*",)),
}


def benchmark_training_step(
    size: TrainingStepSize,
    device: torch.device,
    dtype: torch.dtype,
    variants: Mapping[str, TrainingVariant] = TRAINING_VARIANTS,
) -> str:
    """Times forward, backward and optimizer of the variants in alternation.

    Returns:
        a Markdown table.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers = []
    for name, variant in variants.items():
        pipe, worker_pipe = context.Pipe()
        worker = context.Process(target=_serve_variant, args=(worker_pipe, variant, size, device, dtype), daemon=True)
        worker.start()
        worker_pipe.close()
        workers.append(worker)
        pipes[name] = pipe
        _receive(pipe)  # the model is built and has done one step
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(size.rounds):
        for name, pipe in pipes.items():
            pipe.send("step")
            seconds[name].append(_receive(pipe)[0])
    memory, trained = {}, {}
    for name, pipe in pipes.items():
        pipe.send("end")
        memory[name], trained[name] = _receive(pipe)
    for worker in workers:
        worker.join()
    title = (
        f"{size.preset}, {size.layers} layers, batch {size.batch_size} of latents "
        f"{' x '.join(map(str, size.latents))}, "
        f"{device.type}, {str(dtype).removeprefix('torch.')}, {'with' if size.gradient_checkpointing else 'without'} "
        "gradient "
        f"checkpointing, median of {size.rounds} rounds"
    )
    return f"{title}\n\n{_table(size, seconds, memory, trained)}"


def _receive(pipe: Connection) -> tuple[float, int]:
    """Returns the seconds of a step or, at the end, the peak memory in GiB; and the number of trained parameters."""
    assert pipe.poll(TRAINING_STEP_TIMEOUT), f"no answer from a process for {TRAINING_STEP_TIMEOUT:g} s"
    found: tuple[float, int] = pipe.recv()
    return found


def _serve_variant(
    pipe: Connection, variant: TrainingVariant, size: TrainingStepSize, device: torch.device, dtype: torch.dtype
) -> None:
    """Runs a variant in a process: one step per message."""
    step, trained = _build_step(variant, size, device, dtype)
    step()
    pipe.send((0.0, trained))
    while pipe.recv() == "step":
        start = perf_counter()
        step()
        pipe.send((perf_counter() - start, trained))
    pipe.send((peak_memory_gib(device), trained))


def _build_step(
    variant: TrainingVariant, size: TrainingStepSize, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], None], int]:
    """Returns a training step of this project, and the number of parameters that it trains."""
    model = _build_model(size, variant, device, dtype)
    optimizer = build_optimizer(model, OptimizerConfig())
    batch, objective = _random_batch(size, model.config, device), FlowMatchingObjective(LossConfig(), DropoutConfig())

    def step() -> None:
        draws = step_randomness(0, 0, range(size.batch_size), batch.latents.shape[1:]).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = objective.compute_loss(model, batch, draws, torch.float32).loss.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)

    return step, sum(value.numel() for value in model.parameters() if value.requires_grad)


def _build_model(
    size: TrainingStepSize, variant: TrainingVariant, device: torch.device, dtype: torch.dtype
) -> FantasyTalkingTransformer3DModel:
    """Random weights; what trains is float32, the frozen base `dtype`."""
    torch.manual_seed(0)
    arguments = {**transformer_kwargs(load_model_config(size.preset)), "num_layers": size.layers}
    with torch.device(device):
        model = FantasyTalkingTransformer3DModel(**arguments)
    trained = set(set_trainable(model, list(variant.trainable)))
    for name, parameter in model.named_parameters():
        if name not in trained and not adapter_module_of(name):
            parameter.data = parameter.data.to(dtype)
    if variant.lora_rank:
        add_lora(
            model,
            LoraSpec(variant.lora_rank, float(variant.lora_rank), tuple(LoraConfig().target_modules)),
            torch.float32,
        )
        set_trainable(model, list(variant.trainable))
    if size.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if variant.matmul_attention and device.type == "cpu" and dtype is torch.bfloat16:
        use_matmul_attention(model)
    if variant.compiled:
        compile_blocks(model, device)
    return model.train()


def _random_batch(size: TrainingStepSize, arguments: dict[str, int], device: torch.device) -> TrainingBatch:
    """Returns clips of random features, with frame-level audio as in stage 2."""
    generator = torch.Generator().manual_seed(0)
    (frames, height, width), count = size.latents, size.batch_size
    window = round(AUDIO_TOKENS_PER_SECOND * max(AUDIO_WINDOW_SECONDS, FRAMES_PER_LATENT_FRAME / TRAINING_STEP_FPS))

    def random(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(device)

    conditions = Conditions(
        prompt_embeds=random(size.text_tokens, arguments["text_dim"]),
        image_embeds=random(size.image_tokens, arguments["image_dim"]),
        image_latents=random(arguments["in_channels"] - arguments["out_channels"], frames, height, width),
        audio_embeds=random(frames, window, arguments["audio_dim"]),
        audio_mask=torch.ones(count, frames, window, dtype=torch.bool, device=device),
        face_embeds=random(1, arguments["face_dim"]),
        motion_intensity=torch.full((count, 2), 0.5, device=device),
        condition_scale=torch.ones(count, 2, device=device),
    )
    lips = torch.ones(count, 1, frames, height, width, device=device)
    return TrainingBatch(random(arguments["out_channels"], frames, height, width), conditions, lips)


def _table(
    size: TrainingStepSize,
    step_seconds: dict[str, list[float]],
    peak_memory: dict[str, float],
    trained_parameters: dict[str, int],
) -> str:
    lines = [
        "| | trained parameters | seconds per step | clips per second | ratio | spread | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(step_seconds.values()))
    for name, seconds in step_seconds.items():
        ratios = [own / reference for own, reference in zip(seconds, first, strict=True)]
        median = statistics.median(seconds)
        lines.append(
            f"| {name} | {trained_parameters[name] / 1e6:.1f} M | {median:.2f} | {size.batch_size / median:.3f} | "
            f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {peak_memory[name]:.1f} GiB |"
        )
    return "\n".join(lines)
