"""Trainer of every stage, on one process or many, from the first step to the adapter folder.

A run is a function of its configuration: data order, noise and dropout derive from (seed, step, position in the global
batch), so a run that is killed and restarted by the same command ends with the weights of an uninterrupted run.
"""

import logging
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from fantasytalking.checkpoints.adapter import save_adapter_state
from fantasytalking.checkpoints.lora import strip_peft_name
from fantasytalking.common.agreement import errors_on_all, raise_on_all
from fantasytalking.common.config import save_config
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.locks import lock_output
from fantasytalking.data.corpus_motion import (
    check_initial_motion_normalizer,
    fit_motion_normalizer,
    prepared_motion_normalizer,
)
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.manifest import corpus_face_ranges
from fantasytalking.face_range import face_ranges_to_dict, save_face_ranges
from fantasytalking.models.cpu.attention import use_matmul_attention
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer
from fantasytalking.training.checkpointer import (
    CheckpointManager,
    RunState,
    TrainingProgress,
    check_output_writable,
    estimate_checkpoint_bytes,
)
from fantasytalking.training.config import MixedPrecision, TrainConfig, ValidationConfig
from fantasytalking.training.corpus_audio import check_corpus_audio_encoder, save_corpus_encoder
from fantasytalking.training.dataloader import BatchLayout, iter_micro_batches
from fantasytalking.training.distributed import (
    build_accelerator,
    check_compatible,
    is_sharded,
    model_input_dtype,
    prepare_model_and_optimizer,
)
from fantasytalking.training.ema import EMAModel
from fantasytalking.training.holdout_loss import HOLDOUT_LOG_FILE, HoldoutLoss, holdout_scalars, log_holdout_errors
from fantasytalking.training.metrics_log import (
    LOG_FILE,
    MetricsAccumulator,
    append_log_line,
    flatten_scalars,
    format_log_line,
    truncate_log,
)
from fantasytalking.training.model_setup import AdapterProvenance, build_model, compile_blocks
from fantasytalking.training.objectives import build_objective
from fantasytalking.training.optimizers import build_optimizer, learning_rate_at
from fantasytalking.training.parameter_groups import BASE_GROUP, group_of, trainable_table
from fantasytalking.training.run_guard import check_same_config, check_same_manifests, record_changes
from fantasytalking.training.stage_config import LossWeight
from fantasytalking.training.step_runner import SkippedStep, StepRunner
from fantasytalking.training.stop_request import StopRequest, TrainingInterrupted
from fantasytalking.training.trackers import Trackers

logger = logging.getLogger(__name__)

NOT_FINITE_FILE = "not_finite.jsonl"
"""Steps of a run that were skipped since the loss or the gradient was not finite, and their clips."""


class ValidationResult(NamedTuple):
    """Output of a validation, for the trackers."""

    metrics: dict[str, float]
    contact_sheet: Path | None
    video: Path | None = None


class ValidationSampler(Protocol):
    """Generates a video with the current model. Passed to the trainer, since training imports no pipeline."""

    def __call__(
        self,
        model: FantasyTalkingTransformer3DModel,
        config: ValidationConfig,
        folder: Path | None,
        dtype: torch.dtype | None,
    ) -> ValidationResult:
        """Called on every process, since a sharded model needs all of them.

        Args:
            folder: where to write; None on every process but the main one.
            dtype: type of the model's inputs; None: that of its weights.
        """


class Trainer:
    """Trains one stage.

    Args:
        validation_sampler: generates the validation videos; required if `config.validation.interval` is not 0.

    Raises:
        InputError: the configuration, the clips or the weights cannot be trained with. Nothing but the output folder
            has been written.
    """

    def __init__(self, config: TrainConfig, validation_sampler: ValidationSampler | None = None) -> None:
        self.config, self.output, self._validation_sampler = config, Path(config.output), validation_sampler
        if config.validation.interval and validation_sampler is None:
            raise InputError(
                f"validation.interval is {config.validation.interval}, but there is no validation sampler; use 0",
                code=ErrorCode.unsupported,
                field="validation.interval",
                value=config.validation.interval,
            )
        self.accelerator = build_accelerator(config)
        self.objective = build_objective(config.stage, config.sigma_range)
        self.batch_layout = self._build_batch_layout()
        with errors_on_all():
            self.dataset, self.motion_normalizer = build_dataset(config)
            self.face_ranges = corpus_face_ranges(self.dataset.records)
            check_corpus_audio_encoder(config, self.dataset.audio_encoder)
            check_compatible(config, self.accelerator)
            check_output_writable(self.output, required_bytes=0)
            with self._locked_output():
                pass  # a run that cannot start says so before the weights are read
            self.holdout = (
                HoldoutLoss(config, self.motion_normalizer, self.dataset.audio_encoder)
                if config.holdout.interval
                else None
            )
            model, self.provenance = self._build_model()
            self.trainable_summary = trainable_table(model)
            checkpoints = self._build_checkpoint_manager(model)
        self.model, self.optimizer = self._build_optimizer(model)
        self._input_dtype = model_input_dtype(config, self.accelerator)
        self.ema = self._build_ema()
        self.run_state = RunState(
            self.accelerator, self.model, self.optimizer, checkpoints, self.ema, self.provenance.trained_names
        )
        self.trackers = Trackers(self.accelerator, config)

    def _build_batch_layout(self) -> BatchLayout:
        config, accelerator = self.config, self.accelerator
        return BatchLayout(
            config.batch_size, config.gradient_accumulation_steps, accelerator.num_processes, accelerator.process_index
        )

    def _build_model(self) -> tuple[FantasyTalkingTransformer3DModel, AdapterProvenance]:
        config, device = self.config, self.accelerator.device
        is_bf16 = config.mixed_precision is MixedPrecision.bf16
        frozen_dtype = torch.bfloat16 if is_bf16 else torch.float32
        model, provenance = build_model(config, frozen_dtype, materialize=self.accelerator.is_main_process)
        if is_bf16 and device.type == "cpu" and config.attention_backend is None:
            use_matmul_attention(model)
        if config.compile:
            compile_blocks(model, device)
        return model, provenance

    def _build_checkpoint_manager(self, model: nn.Module) -> CheckpointManager:
        config = self.config
        checkpoints = CheckpointManager(self.output, config.checkpoints.keep_last_n)
        checkpoint_bytes = estimate_checkpoint_bytes(model, bool(config.optimizer.ema_decay))
        check_output_writable(self.output, checkpoints.required_bytes(checkpoint_bytes))
        return checkpoints

    def _build_optimizer(self, model: nn.Module) -> tuple[nn.Module, AcceleratedOptimizer]:
        optimizer = build_optimizer(model, self.config.optimizer)
        return prepare_model_and_optimizer(self.accelerator, model, optimizer)

    def _build_ema(self) -> EMAModel | None:
        decay = self.config.optimizer.ema_decay
        return EMAModel(self.accelerator.unwrap_model(self.model), decay) if decay else None

    def train(self) -> Path:
        """Trains from the newest checkpoint to the last step and returns the adapter folder.

        Raises:
            InputError: the output belongs to another run or another run works on it, too many clips are unreadable, or
                too many steps in a row have a loss or gradient that is not finite.
            TrainingInterrupted: a stop signal was received; the state after the last step is saved.
        """
        with ExitStack() as lock:
            with errors_on_all():
                lock.enter_context(self._locked_output())
            return self._train()

    def _locked_output(self) -> AbstractContextManager[None]:
        return lock_output(self.output, hold=self.accelerator.is_main_process)

    def _train(self) -> Path:
        progress = self._resume()
        self.trackers.start()
        with StopRequest() as stop:
            self._train_steps(progress, stop)
        if progress.step < self.config.stage.steps:
            self.trackers.finish()
            raise TrainingInterrupted(progress.step, stop.signal_number)
        self._save_adapter(progress.step)
        self.trackers.finish()
        return self.output / "adapter"

    def _train_steps(self, progress: TrainingProgress, stop: StopRequest) -> None:
        """Runs the steps that are left, or those until a process receives a stop signal."""
        config, steps = self.config, self.config.stage.steps
        metrics = MetricsAccumulator(config.stage.loss.weight is LossWeight.lip)
        pin_memory = self.accelerator.device.type == "cuda"
        batches = iter_micro_batches(self.dataset, config, self.batch_layout, progress.step, pin_memory)
        runner = StepRunner(
            *(config, self.accelerator, self.batch_layout, self.objective),
            *(self.model, self.optimizer, self._input_dtype),
        )
        for step in range(progress.step, steps):
            # Step
            start = perf_counter()
            outcome = runner.run(step, batches, stop)
            progress.step = step + 1
            if self.ema is not None and outcome.skipped is None:
                self.ema.update(step)
            elapsed = perf_counter() - start
            progress.seconds += elapsed
            metrics.add(outcome.metrics, elapsed, outcome.skipped is not None)
            self._record_unreadable(outcome.unreadable, progress)
            self._record_skipped(outcome.skipped, progress)

            # Log
            if progress.step % config.logging.interval == 0 or progress.step == steps:
                rate = learning_rate_at(step, steps, config.optimizer)
                line = metrics.report(progress.step, steps, rate, self.accelerator.device)
                with errors_on_all():
                    if self.accelerator.is_main_process:
                        append_log_line(self.output / LOG_FILE, line)
                        logger.info(format_log_line(line, steps))
                self.trackers.log(flatten_scalars(line), progress.step)

            # Save
            if progress.step % config.checkpoints.interval == 0 or progress.step == steps or outcome.is_last:
                self.run_state.save(progress)
            if outcome.is_last:
                return

            # Validate
            if config.validation.interval and progress.step % config.validation.interval == 0:
                self._validate(progress.step)
            if config.holdout.interval and progress.step % config.holdout.interval == 0:
                self._evaluate_holdout(progress.step)

    def _resume(self) -> TrainingProgress:
        """Validates that the output belongs to this run and restores its newest checkpoint, if there is one."""
        config, is_main = self.config, self.accelerator.is_main_process
        with errors_on_all():
            if is_main:
                check_same_config(self.output, self.batch_layout.global_batch_size, config)
                check_same_manifests(self.output, config.data.manifests)
        progress = self.run_state.load()
        with errors_on_all():
            _check_steps_left(config, progress.step)
            if is_main:
                record_changes(self.output, config, progress.step)
                save_config(config, self.output / "train.yaml")
                if self.motion_normalizer is not None:
                    self.motion_normalizer.save(self.output / MOTION_NORMALIZER_FILE)
                save_face_ranges(self.face_ranges, self.output)
                save_corpus_encoder(self.dataset.audio_encoder, self.output)
                for name in (LOG_FILE, HOLDOUT_LOG_FILE, NOT_FINITE_FILE):
                    truncate_log(self.output / name, progress.step)
        progress.bad.clear()  # the corpus may have been repaired; what is still unreadable is found again
        if is_main:
            logger.info(self.trainable_summary)
            logger.info(
                f"{config.stage.name}: step {progress.step} to {config.stage.steps}, {len(self.dataset)} clips, "
                f"{self.batch_layout.global_batch_size} per step on {self.batch_layout.world_size} process(es), "
                f"{self.accelerator.distributed_type.value}, mixed precision {config.mixed_precision.value}, "
                f"{self.accelerator.device}"
            )
        return progress

    def _record_unreadable(self, unreadable: dict[str, str], progress: TrainingProgress) -> None:
        """Records clips that could not be read, the same on every process, and stops if there are too many."""
        for name, reason in unreadable.items():
            if name not in progress.bad:
                if self.accelerator.is_main_process:
                    logger.warning(f"clip '{name}' cannot be read and is replaced: {reason}")
                progress.bad[name] = reason
        count, limit = len(progress.bad), self.config.data.max_unreadable_fraction
        if count <= max(limit * len(self.dataset), 1 if limit else 0):
            return
        raise_on_all(
            InputError(
                f"{count} of {len(self.dataset)} clips cannot be read, first '{next(iter(progress.bad))}'; at most "
                f"data.max_unreadable_fraction = {limit:g} may be unreadable: prepare the corpus again",
                code=ErrorCode.malformed_file,
                field="data.max_unreadable_fraction",
                value=count / len(self.dataset),
            )
        )

    def _record_skipped(self, skipped: SkippedStep | None, progress: TrainingProgress) -> None:
        """Counts and logs a step that was skipped, and stops after too many in a row."""
        if skipped is None:
            progress.skipped_in_a_row = 0
            return
        progress.skipped_in_a_row += 1
        path, limit = self.output / NOT_FINITE_FILE, self.config.optimizer.max_nonfinite_steps
        with errors_on_all():
            if self.accelerator.is_main_process:
                clips = {name: str(loss) for name, loss in skipped.clips.items()}
                append_log_line(path, {"step": progress.step, "what": skipped.quantity, "clips": clips})
                logger.warning(f"step {progress.step} is skipped: its {skipped.quantity} is not finite; see '{path}'")
        if progress.skipped_in_a_row >= limit:
            raise_on_all(
                InputError(
                    f"the {skipped.quantity} of step {progress.step} is not finite, as of the last {limit} steps "
                    f"(optimizer.max_nonfinite_steps); '{path}' lists their clips: resume with a lower "
                    "optimizer.learning_rate, or leave clips out by data.exclude",
                    code=ErrorCode.out_of_range,
                    field=skipped.quantity,
                    value=limit,
                )
            )

    def _validate(self, step: int) -> None:
        assert self._validation_sampler is not None
        folder = self.output / "validation" / f"step-{step:08d}" if self.accelerator.is_main_process else None
        model = self.accelerator.unwrap_model(self.model).eval()
        with self._ema_weights(), torch.no_grad(), self.accelerator.autocast():
            # A sharded model does not autocast itself: FSDP computes in another type than it stores.
            dtype = self._input_dtype if is_sharded(self.accelerator) else None
            with errors_on_all():
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
            logger.info(log_holdout_errors(self.output, step, errors, self.holdout.sigmas))
        self.trackers.log(holdout_scalars(errors, self.holdout.sigmas), step)

    def _save_adapter(self, step: int) -> None:
        adapter_config, base_names = self.provenance.adapter_config(self.config, step)
        if self.dataset.audio_encoder is not None:
            adapter_config.audio_encoder = self.dataset.audio_encoder.to_dict()
        adapter_config.face_ranges = face_ranges_to_dict(self.face_ranges)
        trained_base_names = set(base_names)
        state = self.run_state.full_state_dict(
            lambda name: group_of(name) != BASE_GROUP or strip_peft_name(name) in trained_base_names
        )
        with errors_on_all():
            if self.accelerator.is_main_process:
                save_adapter_state(
                    *(state, self.output / "adapter", adapter_config, self.config, base_names),
                    motion_normalizer=self.motion_normalizer,
                    dtype=torch.float16 if self.config.stage.save_float16 else None,
                )
                logger.info(f"wrote '{self.output / 'adapter'}': {', '.join(adapter_config.modules)}")
        self.accelerator.wait_for_everyone()

    def _ema_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.ema is None else self.ema.average_parameters()


def build_dataset(config: TrainConfig) -> tuple[PortraitDataset, MotionNormalizer | None]:
    """Returns the clips of a run and the motion normalizer of their intensities (None if unknown).

    Raises:
        InputError: a manifest is missing or damaged, or the initial weights were trained with other constants.
    """
    refit = config.data.refit_motion_normalizer
    motion_normalizer = (fit_motion_normalizer if refit else prepared_motion_normalizer)(config.data.manifests)
    dataset = PortraitDataset(
        *config.data.manifests,
        motion_normalizer=motion_normalizer if refit else None,
        exclude=config.data.exclude,
    )
    check_initial_motion_normalizer(config.stage.init_from, motion_normalizer, refit)
    return dataset, motion_normalizer


def _check_steps_left(config: TrainConfig, step: int) -> None:
    if step > config.stage.steps:
        raise InputError(
            f"stage.steps is {config.stage.steps}, but output '{config.output}' is at step {step}; raise stage.steps "
            "or choose another output folder",
            code=ErrorCode.out_of_range,
            field="stage.steps",
            value=config.stage.steps,
        )
