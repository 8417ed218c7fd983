"""Row training_step: one optimiser step of adapters, of LoRA and adapters, and of everything.

Each runs in a process of its own, so that its peak memory is its own; they step in turn, so that the ratios hold.
"""

import multiprocessing
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter

import torch
from torch import Tensor

from fantasytalking.audio_windows import WINDOW_SECONDS
from fantasytalking.benchmarking.interleaved_timing import peak_memory
from fantasytalking.checkpoints.lora import LoraSettings, add_lora
from fantasytalking.conditions import Conditions
from fantasytalking.data.collate import Batch
from fantasytalking.models.cpu.attention import attend_by_products
from fantasytalking.models.presets import load_model_config, transformer_arguments
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import portrait_module
from fantasytalking.training.compilation import compile_blocks
from fantasytalking.training.config import DropoutConfig, LoraConfig, LossConfig, OptimiserConfig
from fantasytalking.training.losses import stage_loss
from fantasytalking.training.optimizers import build_optimiser
from fantasytalking.training.parameter_groups import set_trainable
from fantasytalking.training.rng import draw

PATIENCE = 1800.0
"""Seconds after which a process that does not answer is given up."""
LORA_RANK = 64
TOKENS_A_SECOND = 50
"""Of wav2vec2."""
FRAMES_A_LATENT_FRAME, FPS = 4, 25


@dataclass(frozen=True)
class TrainingStepSize:
    """What is run: a preset's width, so many layers, a batch of latents of F x H x W."""

    preset: str
    layers: int
    latents: tuple[int, int, int]
    batch: int
    rounds: int
    checkpointing: bool
    text_tokens: int = 512
    image_tokens: int = 257


CPU_SIZE = TrainingStepSize("wan1.3b", layers=2, latents=(3, 16, 16), batch=1, rounds=3, checkpointing=False)
GPU_SIZE = TrainingStepSize("wan1.3b", layers=30, latents=(21, 64, 64), batch=1, rounds=5, checkpointing=True)
"""Full depth, 81 frames at 512 px."""

ADAPTERS = ("audio", "face", "motion")


@dataclass(frozen=True)
class Side:
    """One way of stepping."""

    trainable: tuple[str, ...] = ADAPTERS
    """By patterns."""
    lora: int = 0
    """Rank; 0: none."""
    products: bool = True
    """Attention by plain products in bfloat16 on a CPU, as the trainer has it."""
    compiled: bool = False
    """Blocks are compiled."""


SIDES = {
    "adapters (audio, face, motion)": Side(),
    f"adapters and LoRA of rank {LORA_RANK}": Side(lora=LORA_RANK),
    "everything": Side(("*",)),
}


def training_step(
    size: TrainingStepSize, device: torch.device, dtype: torch.dtype, sides: Mapping[str, Side] = SIDES
) -> str:
    """Times forward, backward and optimiser of each side in turn; gives a Markdown table."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers = []
    for name, side in sides.items():
        ours, theirs = context.Pipe()
        worker = context.Process(target=_serve, args=(theirs, side, size, device, dtype), daemon=True)
        worker.start()
        theirs.close()
        workers.append(worker)
        pipes[name] = ours
        _answer(ours)  # built, one step done
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(size.rounds):
        for name, pipe in pipes.items():
            pipe.send("step")
            seconds[name].append(_answer(pipe)[0])
    memory, trained = {}, {}
    for name, pipe in pipes.items():
        pipe.send("end")
        memory[name], trained[name] = _answer(pipe)
    for worker in workers:
        worker.join()
    title = (
        f"{size.preset}, {size.layers} layers, batch {size.batch} of latents {' x '.join(map(str, size.latents))}, "
        f"{device.type}, {str(dtype).removeprefix('torch.')}, {'with' if size.checkpointing else 'without'} gradient "
        f"checkpointing, median of {size.rounds} rounds"
    )
    return f"{title}\n\n{_table(size, seconds, memory, trained)}"


def _answer(pipe: Connection) -> tuple[float, int]:
    """Seconds of a step or, at the end, peak memory in GiB; and the parameters that train."""
    assert pipe.poll(PATIENCE), f"a side has not answered for {PATIENCE:g} s"
    found: tuple[float, int] = pipe.recv()
    return found


def _serve(pipe: Connection, side: Side, size: TrainingStepSize, device: torch.device, dtype: torch.dtype) -> None:
    """One side: a step whenever it is told so."""
    step, trained = _prepare(side, size, device, dtype)
    step()
    pipe.send((0.0, trained))
    while pipe.recv() == "step":
        start = perf_counter()
        step()
        pipe.send((perf_counter() - start, trained))
    pipe.send((peak_memory(device), trained))


def _prepare(
    side: Side, size: TrainingStepSize, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], None], int]:
    """A step of the project's own training, and the number of parameters that it trains."""
    model = _model(size, side, device, dtype)
    optimiser = build_optimiser(model, OptimiserConfig())
    batch = _batch(size, model.config, device)

    def step() -> None:
        draws = draw(0, 0, range(size.batch), batch.latents.shape[1:])
        draws = type(draws)(*(value.to(device) for value in draws))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = stage_loss(model, batch, draws, LossConfig(), DropoutConfig(), torch.float32).loss.mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step, sum(value.numel() for value in model.parameters() if value.requires_grad)


def _model(
    size: TrainingStepSize, side: Side, device: torch.device, dtype: torch.dtype
) -> FantasyTalkingTransformer3DModel:
    """Random weights; what trains is float32, the frozen base `dtype`."""
    torch.manual_seed(0)
    arguments = {**transformer_arguments(load_model_config(size.preset)), "num_layers": size.layers}
    with torch.device(device):
        model = FantasyTalkingTransformer3DModel(**arguments)
    trained = set(set_trainable(model, list(side.trainable)))
    for name, parameter in model.named_parameters():
        if name not in trained and not portrait_module(name):
            parameter.data = parameter.data.to(dtype)
    if side.lora:
        add_lora(model, LoraSettings(side.lora, float(side.lora), tuple(LoraConfig().targets)), torch.float32)
        set_trainable(model, list(side.trainable))
    if size.checkpointing:
        model.enable_gradient_checkpointing()
    if side.products and device.type == "cpu" and dtype is torch.bfloat16:
        attend_by_products(model)
    if side.compiled:
        compile_blocks(model, device)
    return model.train()


def _batch(size: TrainingStepSize, arguments: dict[str, int], device: torch.device) -> Batch:
    """Clips of random features, heard frame by frame as in stage 2."""
    generator = torch.Generator().manual_seed(0)
    (frames, height, width), count = size.latents, size.batch
    window = round(TOKENS_A_SECOND * max(WINDOW_SECONDS, FRAMES_A_LATENT_FRAME / FPS))

    def random(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(device)

    conditions = Conditions(
        text=random(size.text_tokens, arguments["text_dim"]),
        image=random(size.image_tokens, arguments["image_dim"]),
        latents=random(arguments["in_channels"] - arguments["out_channels"], frames, height, width),
        audio=random(frames, window, arguments["audio_dim"]),
        audio_mask=torch.ones(count, frames, window, dtype=torch.bool, device=device),
        face=random(1, arguments["face_dim"]),
        motion=torch.full((count, 2), 0.5, device=device),
        gate=torch.ones(count, 2, device=device),
    )
    lips = torch.ones(count, 1, frames, height, width, device=device)
    return Batch(random(arguments["out_channels"], frames, height, width), conditions, lips)


def _table(
    size: TrainingStepSize,
    seconds: dict[str, list[float]],
    memory: dict[str, float],
    trained: dict[str, int],
) -> str:
    lines = [
        "| | trained parameters | seconds a step | clips a second | ratio | spread | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(seconds.values()))
    for name, own in seconds.items():
        ratios = [mine / reference for mine, reference in zip(own, first, strict=True)]
        median = statistics.median(own)
        lines.append(
            f"| {name} | {trained[name] / 1e6:.1f} M | {median:.2f} | {size.batch / median:.3f} | "
            f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} | {memory[name]:.1f} GiB |"
        )
    return "\n".join(lines)
