"""Reads the files of a run and evaluates its model."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from fantasytalking.checkpoints.adapter import ADAPTER_FILE
from fantasytalking.data.collate import PortraitCollator
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.dataloader import BatchLayout, iter_micro_batches
from fantasytalking.training.losses import FlowMatchingObjective
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.objectives import build_objective
from fantasytalking.training.optimizers import build_optimizer
from fantasytalking.training.rng import step_randomness
from fantasytalking.training.stage_config import DropoutConfig


def read_log(output: str | Path) -> list[dict]:
    """The lines of log.jsonl."""
    return [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]


def read_losses(output: str | Path) -> list[float]:
    return [line["loss"] for line in read_log(output)]


def load_adapter_tensors(output: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(output) / "adapter" / ADAPTER_FILE)


def load_checkpoint_tensors(output: str | Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(Path(output) / "checkpoints" / f"step-{step:08d}" / "trained.safetensors")


def bit_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether names and values are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def step_on_second_device(config: TrainConfig) -> None:
    """Runs a step on the meta device, which raises if a tensor stays on the CPU."""
    elsewhere = torch.device("meta")
    model = build_model(config, torch.float32)[0].to(elsewhere)
    optimizer = build_optimizer(model, config.optimizer)
    layout = BatchLayout(config.batch_size, 1, 1, 0)
    micro = next(iter_micro_batches(PortraitDataset(*config.data.manifests), config, layout, 0, False)).to(elsewhere)
    result = build_objective(config.stage).compute_loss(model, micro.batch, micro.randomness, torch.float32)
    result.loss.mean().backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.device == elsewhere for gradient in gradients)
    assert result.loss.device == result.sigmas.device == elsewhere


@torch.no_grad()
def corpus_loss(model: nn.Module, config: TrainConfig, repeats: int = 8) -> float:
    """Mean loss of the stage over every clip, with new noise. Drops only conditions that are always dropped."""
    dataset = PortraitDataset(*config.data.manifests)
    collate = PortraitCollator(config.collate_config())
    batch = collate([dataset[i] for i in range(len(dataset))])
    without_audio = config.stage.dropout.audio == 1
    dropout = DropoutConfig(reference=0.0, audio=float(without_audio), prompt=0.0, expression=0.0)
    objective, losses = FlowMatchingObjective(config.stage.loss, dropout), []
    for repeat in range(repeats):
        draws = step_randomness(config.seed, 10**6 + repeat, range(len(dataset)), batch.latents.shape[1:])
        losses.append(objective.compute_loss(model.eval(), batch, draws, torch.float32).loss.mean())
    return torch.stack(losses).mean().item()
