"""Runs one training step: forward and backward passes, and the update if all numbers are finite."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu

from fantasytalking.common.agreement import errors_on_all, flags_of_all
from fantasytalking.models.presets import load_model_config
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.dataloader import BatchLayout, MicroBatch
from fantasytalking.training.metrics_log import StepMetrics
from fantasytalking.training.objectives import Objective
from fantasytalking.training.optimizers import learning_rate_at, set_learning_rate
from fantasytalking.training.stop_request import StopRequest


class SkippedStep(NamedTuple):
    """A step without an update, since a number was not finite."""

    quantity: str
    """loss or gradient."""
    clips: dict[str, float]
    """Loss by clip: the clips whose loss is not finite or, for a gradient, all of the step."""


class StepOutcome(NamedTuple):
    """What all processes know after a step."""

    metrics: StepMetrics
    """Of the global batch."""
    unreadable: dict[str, str]
    """Reason by name of the clips that could not be read by any process."""
    skipped: SkippedStep | None
    """None if the weights were updated."""
    is_last: bool
    """Whether a process received a stop signal."""


class StepRunner:
    """Runs the steps of a run, on every process at once.

    Args:
        model, optimizer: as prepared by `accelerator`.
        input_dtype: type of the model's inputs.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        layout: BatchLayout,
        objective: Objective,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        input_dtype: torch.dtype,
    ) -> None:
        self._config, self._accelerator, self._layout = config, accelerator, layout
        self._objective, self._model, self._optimizer = objective, model, optimizer
        self._input_dtype = input_dtype
        self._patch_size = load_model_config(config.model).geometry.patch_size

    def run(self, step: int, batches: Iterator[MicroBatch], stop: StopRequest) -> StepOutcome:
        """Updates the weights once, or leaves them as they are if a loss or the gradient is not finite.

        Args:
            step: its number, from 0.
            batches: micro-batches of this process.
            stop: of this process; all processes learn of it.

        Raises:
            InputError: a process cannot read its clips; raised on all of them.
        """
        config, accelerator = self._config, self._accelerator
        set_learning_rate(self._optimizer, learning_rate_at(step, config.stage.steps, config.optimizer))
        measured: list[Tensor] = []  # (3, B): loss, sigma, 1 for masked
        names: list[str] = []
        unreadable: dict[str, str] = {}
        tokens, grad_norm, is_finite, flags = 0, 0.0, True, [False] * 3
        for _ in range(config.gradient_accumulation_steps):
            with errors_on_all():
                micro_batch = next(batches).to(accelerator.device)
            names += micro_batch.clip_names
            unreadable.update(micro_batch.unreadable)
            with accelerator.accumulate(self._model):
                with self._saved_activations():
                    result = self._objective.compute_loss(
                        self._model, micro_batch.batch, micro_batch.randomness, self._input_dtype
                    )
                accelerator.backward(result.loss.mean())
                loss = result.loss.detach()
                measured.append(torch.stack([loss, result.sigmas, result.masked.to(loss)]))
                if accelerator.sync_gradients:
                    # DeepSpeed has made its step, unless it found that the gradient is not finite.
                    grad_norm = self._clip_gradients()
                    is_finite = bool(torch.isfinite(torch.cat(measured, dim=1)[0]).all()) and grad_norm < float("inf")
                    flags = flags_of_all([not is_finite, bool(unreadable), stop.is_set])
                    is_finite = not flags[0]
                if is_finite:
                    self._optimizer.step()
                self._optimizer.zero_grad()
            tokens += self._tokens(micro_batch)
        own = torch.cat(measured, dim=1).T.contiguous()  # (clips, 3)
        losses, sigmas, masked = accelerator.gather(own).unbind(dim=1)
        metrics = StepMetrics(losses, sigmas, masked > 0, grad_norm, tokens)
        skipped = None if is_finite else _skipped_step(names, own[:, 0])
        return StepOutcome(metrics, _merged(unreadable) if flags[1] else {}, skipped, flags[2])

    def _saved_activations(self) -> AbstractContextManager[object]:
        """Where the tensors are kept that the backward pass needs."""
        if not self._config.activation_offload:
            return nullcontext()
        is_pinned = self._accelerator.device.type == "cuda"
        return save_on_cpu(pin_memory=is_pinned, device_type=self._accelerator.device.type)

    def _clip_gradients(self) -> float:
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), self._config.optimizer.max_grad_norm)
        return 0.0 if norm is None else float(norm)

    def _tokens(self, micro_batch: MicroBatch) -> int:
        frames, height, width = micro_batch.batch.latents.shape[2:]
        tokens = frames * (height // self._patch_size) * (width // self._patch_size)
        return self._layout.batch_size * self._layout.world_size * tokens


def _skipped_step(names: list[str], losses: Tensor) -> SkippedStep:
    every = list(gather_object(list(zip(names, losses.tolist(), strict=True))))
    wrong = [(name, loss) for name, loss in every if not abs(loss) < float("inf")]
    return SkippedStep("loss" if wrong else "gradient", dict(wrong or every))


def _merged(unreadable: dict[str, str]) -> dict[str, str]:
    return dict(sorted(gather_object(list(unreadable.items()))))
