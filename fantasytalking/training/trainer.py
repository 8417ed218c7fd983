"""The one Trainer: every stage, on one process or many, from the first step to the adapter folder.

A run is a function of its configuration: data order, noise and dropout derive from (seed, step, place in the global
batch), so the same command again after a kill gives the weights of a run that was never killed.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn

from fantasytalking.checkpoints.adapter import save_adapter_state
from fantasytalking.checkpoints.lora import strip_peft_name
from fantasytalking.common.config import save_config
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.data.corpus_motion import (
    check_initial_motion_normalizer,
    fit_motion_normalizer,
    prepared_motion_normalizer,
)
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.models.cpu.attention import use_matmul_attention
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.checkpointer import RunState
from fantasytalking.training.compilation import compile_blocks
from fantasytalking.training.config import MixedPrecision, OptimizerType, TrainConfig
from fantasytalking.training.dataloader import BatchLayout, MicroBatch, iter_micro_batches
from fantasytalking.training.distillation import distillation_loss
from fantasytalking.training.distributed import Trackers, build_accelerator, is_sharded, prepare_model_and_optimizer
from fantasytalking.training.ema import EMAModel
from fantasytalking.training.holdout_loss import HOLDOUT_LOG_FILE as HELD_OUT_LOG
from fantasytalking.training.holdout_loss import HoldoutLoss, holdout_scalars, log_holdout_errors
from fantasytalking.training.losses import StepLoss, stage_loss
from fantasytalking.training.metrics_log import (
    MetricsAccumulator,
    append_log_line,
    flatten_scalars,
    format_log_line,
    truncate_log,
)
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.optimizers import build_optimizer, learning_rate_at, set_learning_rate
from fantasytalking.training.parameter_groups import BASE_GROUP, group_of, trainable_table
from fantasytalking.training.run_guard import (
    CheckpointManager,
    TrainingProgress,
    check_output_writable,
    check_same_config,
    check_same_manifests,
)
from fantasytalking.training.validation_config import ValidationConfig

logger = logging.getLogger(__name__)


class ValidationResult(NamedTuple):
    """What a validation made, for the trackers."""

    metrics: dict[str, float]
    contact_sheet: Path | None
    video: Path | None = None


class ValidationSampler(Protocol):
    """Makes a video of the model as it stands. Given by the script, since training knows no pipeline."""

    def __call__(
        self,
        model: FantasyTalkingTransformer3DModel,
        config: ValidationConfig,
        folder: Path | None,
        dtype: torch.dtype | None,
    ) -> ValidationResult:
        """Called on every process, since a sharded model needs them all; only one is given a folder to write to.

        `dtype` is what the model wants its inputs in; None: what its weights are in.
        """


class Trainer:
    """Trains one stage.

    Args:
        config: of the run.
        sample: makes validation videos; needed when `config.validation.interval` is not 0.

    Raises:
        InputError: anything given that cannot be trained with; nothing was written then but the output folder.
    """

    def __init__(self, config: TrainConfig, validation_sampler: ValidationSampler | None = None) -> None:
        if config.validation.interval and validation_sampler is None:
            raise InputError(
                f"validation.interval is {config.validation.interval}, but this script cannot make videos; use 0"
            )
        self.config, self._validation_sampler = config, validation_sampler
        self.output = Path(config.output)
        fit = config.data.refit_motion_normalizer
        self.motion_normalizer = (fit_motion_normalizer if fit else prepared_motion_normalizer)(config.data.manifests)
        self.dataset = PortraitDataset(
            *config.data.manifests, motion_normalizer=self.motion_normalizer if fit else None
        )
        check_initial_motion_normalizer(config.stage.init_from, self.motion_normalizer, fit)
        self.accelerator = accelerator = build_accelerator(config)
        self.holdout = HoldoutLoss(config, self.motion_normalizer) if config.holdout.interval else None
        self.batch_layout = BatchLayout(
            config.batch_size, config.gradient_accumulation_steps, accelerator.num_processes, accelerator.process_index
        )
        if config.optimizer.ema_decay and is_sharded(accelerator):
            raise InputError("optimizer.ema_decay needs whole parameters (one process, DDP or ZeRO-2); set it to 0")
        sharding = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        half = config.mixed_precision is MixedPrecision.bf16
        if config.optimizer.ema_decay and half and sharding:
            raise InputError("optimizer.ema_decay would average DeepSpeed's rounded weights; set it to 0, or use fp32")
        if config.optimizer.type is OptimizerType.muon and sharding:
            raise InputError("optimizer.type=muon needs whole matrices (one process or DDP); use adamw")
        check_output_writable(self.output, 0)

        frozen_dtype = torch.bfloat16 if half else torch.float32
        model, self.provenance = build_model(config, frozen_dtype, materialize=accelerator.is_main_process)
        if half and accelerator.device.type == "cpu" and config.attention_backend is None:
            use_matmul_attention(model)
        if config.compile:
            compile_blocks(model, accelerator.device)
        self.trainable_summary = trainable_table(model)
        optimiser = build_optimizer(model, config.optimizer)
        checkpoints = CheckpointManager(self.output, config.checkpoints.keep_last_n)
        check_output_writable(
            self.output, checkpoints.required_bytes(_checkpoint_bytes(model, config, accelerator.distributed_type))
        )
        self.model: nn.Module
        self.model, self.optimizer = prepare_model_and_optimizer(accelerator, model, optimiser)
        # DeepSpeed and FSDP cast the whole model themselves and want its inputs cast; the others autocast.
        self._input_dtype = torch.bfloat16 if half and sharding else torch.float32
        unwrapped = accelerator.unwrap_model(self.model)
        self.ema = EMAModel(unwrapped, config.optimizer.ema_decay) if config.optimizer.ema_decay else None
        self.run_state = RunState(accelerator, self.model, checkpoints, self.ema, self.provenance.trained_names)
        self.trackers = Trackers(accelerator, config)

    def train(self) -> Path:
        """Trains from the newest checkpoint to the last step; gives the adapter folder.

        Raises:
            InputError: the output holds another run, too many clips cannot be read, or the loss is not finite.
        """
        config, steps = self.config, self.config.stage.steps
        progress = self._resume()
        meter, log = MetricsAccumulator(), self.output / "log.jsonl"
        pin_memory = self.accelerator.device.type == "cuda"
        batches = iter_micro_batches(self.dataset, config, self.batch_layout, progress.step, pin_memory)
        self.trackers.start()
        for step in range(progress.step, steps):
            # Step
            start = perf_counter()
            losses, sigmas, norm, tokens, bad = self._train_step(step, batches)
            progress.step = step + 1
            if self.ema is not None:
                self.ema.update(step)
            elapsed = perf_counter() - start
            progress.seconds += elapsed
            meter.add(losses, sigmas, norm, tokens, elapsed)
            self._record_unreadable(bad, progress)

            # Report
            if progress.step % config.logging.interval == 0 or progress.step == steps:
                rate = learning_rate_at(step, steps, config.optimizer)
                line = meter.report(progress.step, steps, rate, self.accelerator.device)
                if self.accelerator.is_main_process:
                    append_log_line(log, line)
                    logger.info(format_log_line(line, steps))
                self.trackers.log(flatten_scalars(line), progress.step)

            # Save
            if progress.step % config.checkpoints.interval == 0 or progress.step == steps:
                self._sync_unreadable(progress)
                self.run_state.save(progress)

            # Validate
            if config.validation.interval and progress.step % config.validation.interval == 0:
                self._validate(progress.step)
            if config.holdout.interval and progress.step % config.holdout.interval == 0:
                self._evaluate_holdout(progress.step)
        self._sync_unreadable(progress)
        self._save_adapter(steps)
        self.trackers.finish()
        return self.output / "adapter"

    def _resume(self) -> TrainingProgress:
        config, main = self.config, self.accelerator.is_main_process
        if main:
            check_same_config(self.output, self.batch_layout.global_batch_size, config)
            check_same_manifests(self.output, config.data.manifests)
            save_config(config, self.output / "train.yaml")
        progress = self.run_state.load()
        if progress.step > config.stage.steps:
            raise InputError(
                f"output '{config.output}' is at step {progress.step} and stage.steps is {config.stage.steps}; "
                "raise it or choose another output folder"
            )
        if main:
            for name in ("log.jsonl", HELD_OUT_LOG):
                truncate_log(self.output / name, progress.step)
            logger.info(self.trainable_summary)
            logger.info(
                f"{config.stage.name}: step {progress.step} to {config.stage.steps}, {len(self.dataset)} clips, "
                f"{self.batch_layout.global_batch_size} a step on {self.batch_layout.world_size} process(es), "
                f"{self.accelerator.distributed_type.value}, {config.mixed_precision.value}, {self.accelerator.device}"
            )
        return progress

    def _train_step(
        self, step: int, batches: Iterator[MicroBatch]
    ) -> tuple[Tensor, Tensor, float, int, dict[str, str]]:
        """Losses and noise levels of the global batch, norm of the gradient, video tokens, clips that were bad."""
        config, accelerator = self.config, self.accelerator
        set_learning_rate(self.optimizer, learning_rate_at(step, config.stage.steps, config.optimizer))
        told, tokens, norm = [], 0, 0.0
        bad: dict[str, str] = {}
        for _ in range(config.gradient_accumulation_steps):
            micro = next(batches).to(accelerator.device)
            bad.update(micro.unreadable)
            with accelerator.accumulate(self.model):
                result = self._compute_loss(micro)
                self._check_finite("loss", result.loss, step, micro)
                accelerator.backward(result.loss.mean())
                if accelerator.sync_gradients:
                    norm = self._clip_gradients(step, micro)
                self.optimizer.step()
                self.optimizer.zero_grad()
            told.append(torch.stack([result.loss.detach(), result.sigmas]))
            frames, height, width = micro.batch.latents.shape[2:]
            tokens += (
                self.batch_layout.batch_size * self.batch_layout.world_size * frames * (height // 2) * (width // 2)
            )
        everywhere = accelerator.gather(torch.cat(told, dim=1).T.contiguous())  # (global batch, 2)
        return everywhere[:, 0], everywhere[:, 1], norm, tokens, bad

    def _compute_loss(self, micro_batch: MicroBatch) -> StepLoss:
        stage, given = self.config.stage, (self.model, micro_batch.batch, micro_batch.randomness)
        if stage.distillation is not None:
            return distillation_loss(*given, stage.distillation, stage.loss, self._input_dtype)
        return stage_loss(*given, stage.loss, stage.dropout, self._input_dtype)

    def _clip_gradients(self, step: int, micro_batch: MicroBatch) -> float:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimizer.max_grad_norm)
        norm = torch.as_tensor(0.0 if norm is None else norm)
        self._check_finite("gradient", norm[None], step, micro_batch)
        return float(norm)

    def _check_finite(self, quantity: str, values: Tensor, step: int, micro_batch: MicroBatch) -> None:
        """Stops before the weights are touched, with the clips' names saved."""
        if bool(torch.isfinite(values).all()):
            return
        path = self.output / f"not_finite_{self.accelerator.process_index}.json"
        found = {
            "step": step + 1,
            "what": quantity,
            "clips": micro_batch.clip_names,
            "values": [str(v) for v in values.tolist()],
        }
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        raise InputError(
            f"the {quantity} of step {step + 1} is not finite; its clips are named in '{path}'; "
            "take them out of the manifest, or lower optimizer.learning_rate"
        )

    def _record_unreadable(self, unreadable: dict[str, str], progress: TrainingProgress) -> None:
        for name, reason in unreadable.items():
            if name not in progress.bad:
                logger.warning(f"clip '{name}' cannot be read and is replaced: {reason}")
                progress.bad[name] = reason
        share, limit = len(progress.bad) / len(self.dataset), self.config.data.max_unreadable_fraction
        if share > limit:
            raise InputError(
                f"{len(progress.bad)} of {len(self.dataset)} clips cannot be read, more than "
                "data.max_unreadable_fraction = "
                f"{limit:g}; the first is '{next(iter(progress.bad))}'; prepare the corpus again"
            )

    def _sync_unreadable(self, progress: TrainingProgress) -> None:
        """What any process could not read is known to all of them."""
        for name, reason in sorted(gather_object(list(progress.bad.items()))):
            progress.bad.setdefault(name, reason)
        if progress.bad and self.accelerator.is_main_process:
            logger.warning(f"{len(progress.bad)} of {len(self.dataset)} clips could not be read so far")

    def _validate(self, step: int) -> None:
        assert self._validation_sampler is not None
        folder = self.output / "validation" / f"step-{step:08d}" if self.accelerator.is_main_process else None
        model = self.accelerator.unwrap_model(self.model).eval()
        with self._ema_weights(), torch.no_grad(), self.accelerator.autocast():
            # Without autocast in the model itself, FSDP computes in another type than it keeps.
            dtype = self._input_dtype if is_sharded(self.accelerator) else None
            result = self._validation_sampler(model, self.config.validation, folder, dtype)
        model.train()
        self.trackers.log({f"validation/{name}": value for name, value in result.metrics.items()}, step)
        if result.contact_sheet is not None:
            self.trackers.log_image("validation/contact_sheet", result.contact_sheet, step)
        if result.video is not None:
            self.trackers.log_video("validation/video", result.video, step)

    def _evaluate_holdout(self, step: int) -> None:
        assert self.holdout is not None
        self.model.eval()
        with self._ema_weights(), torch.no_grad(), self.accelerator.autocast():
            errors = self.holdout.evaluate(self.model, self.accelerator.device, self._input_dtype)
        self.model.train()
        if self.accelerator.is_main_process:
            logger.info(log_holdout_errors(self.output, step, errors))
        self.trackers.log(holdout_scalars(errors), step)

    def _save_adapter(self, step: int) -> None:
        described, base_names = self.provenance.adapter_config(self.config, step)
        bases = set(base_names)
        state = self.run_state.full_state_dict(
            lambda name: group_of(name) != BASE_GROUP or strip_peft_name(name) in bases
        )
        if self.accelerator.is_main_process:
            save_adapter_state(
                *(state, self.output / "adapter", described, self.config, base_names),
                motion_normalizer=self.motion_normalizer,
                dtype=torch.float16 if self.config.stage.save_float16 else None,
            )
            logger.info(f"wrote '{self.output / 'adapter'}': {', '.join(described.modules)}")
        self.accelerator.wait_for_everyone()

    def _ema_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.ema is None else self.ema.average_parameters()


def _checkpoint_bytes(model: nn.Module, config: TrainConfig, distributed_type: DistributedType) -> int:
    """Weights and two moments of what trains (and its average) in a checkpoint.

    FSDP writes the frozen weights too.
    """
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    frozen = sum(value.numel() * value.element_size() for value in model.parameters() if not value.requires_grad)
    tensors = 4 if config.optimizer.ema_decay else 3
    return trained * tensors * 4 + (frozen if distributed_type is DistributedType.FSDP else 0)
