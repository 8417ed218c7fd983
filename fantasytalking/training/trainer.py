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

from fantasytalking.checkpoints.adapter import write_state
from fantasytalking.checkpoints.lora import plain_name
from fantasytalking.common.config import save_config
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import written_whole
from fantasytalking.data.corpus_motion import check_start_motion, fitted_motion, prepared_motion
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.models.cpu.attention import attend_by_products
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.training.checkpointer import RunState
from fantasytalking.training.compilation import compile_blocks
from fantasytalking.training.config import Optimiser, Precision, TrainConfig
from fantasytalking.training.dataloader import Layout, MicroBatch, step_batches
from fantasytalking.training.distillation import distillation_loss
from fantasytalking.training.distributed import Trackers, build_accelerator, is_sharded, prepare
from fantasytalking.training.ema import MovingAverage
from fantasytalking.training.holdout_loss import LOG as HELD_OUT_LOG
from fantasytalking.training.holdout_loss import HeldOut, held_out_line, held_out_scalars
from fantasytalking.training.losses import StepLoss, stage_loss
from fantasytalking.training.metrics_log import Meter, append_line, forget_after, scalars, sentence
from fantasytalking.training.model_setup import build_model
from fantasytalking.training.optimizers import build_optimiser, learning_rate, set_learning_rate
from fantasytalking.training.parameter_groups import BASE, part_of, trainable_table
from fantasytalking.training.run_guard import Checkpoints, Progress, check_output, check_same_clips, check_same_run
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
        sample: makes validation videos; needed when `config.validation.every` is not 0.

    Raises:
        InputError: anything given that cannot be trained with; nothing was written then but the output folder.
    """

    def __init__(self, config: TrainConfig, sample: ValidationSampler | None = None) -> None:
        if config.validation.every and sample is None:
            raise InputError(
                f"validation.every is {config.validation.every}, but this script cannot make videos; use 0"
            )
        self.config, self._sample = config, sample
        self.output = Path(config.output)
        fit = config.data.fit_motion
        self.motion = (fitted_motion if fit else prepared_motion)(config.data.manifests)
        self.dataset = PortraitDataset(*config.data.manifests, motion=self.motion if fit else None)
        check_start_motion(config.stage.init_from, self.motion, fit)
        self.accelerator = accelerator = build_accelerator(config)
        self.held_out = HeldOut(config, self.motion) if config.held_out.every else None
        self.layout = Layout(config.batch, config.accumulation, accelerator.num_processes, accelerator.process_index)
        if config.optimiser.ema_decay and is_sharded(accelerator):
            raise InputError("optimiser.ema_decay needs whole parameters (one process, DDP or ZeRO-2); set it to 0")
        sharding = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        half = config.precision is Precision.bf16
        if config.optimiser.ema_decay and half and sharding:
            raise InputError("optimiser.ema_decay would average DeepSpeed's rounded weights; set it to 0, or use fp32")
        if config.optimiser.kind is Optimiser.muon and sharding:
            raise InputError("optimiser.kind=muon needs whole matrices (one process or DDP); use adamw")
        check_output(self.output, 0)

        frozen_dtype = torch.bfloat16 if half else torch.float32
        model, self.origin = build_model(config, frozen_dtype, values=accelerator.is_main_process)
        if half and accelerator.device.type == "cpu" and config.attention is None:
            attend_by_products(model)
        if config.compile:
            compile_blocks(model, accelerator.device)
        self.table = trainable_table(model)
        optimiser = build_optimiser(model, config.optimiser)
        checkpoints = Checkpoints(self.output, config.saving.keep_last)
        check_output(self.output, checkpoints.room_for(_checkpoint_bytes(model, config, accelerator.distributed_type)))
        self.model: nn.Module
        self.model, self.optimiser = prepare(accelerator, model, optimiser)
        # DeepSpeed and FSDP cast the whole model themselves and want its inputs cast; the others autocast.
        self._input_dtype = torch.bfloat16 if half and sharding else torch.float32
        unwrapped = accelerator.unwrap_model(self.model)
        self.average = MovingAverage(unwrapped, config.optimiser.ema_decay) if config.optimiser.ema_decay else None
        self.state = RunState(accelerator, self.model, checkpoints, self.average, self.origin.trained)
        self.trackers = Trackers(accelerator, config)

    def train(self) -> Path:
        """Trains from the newest checkpoint to the last step; gives the adapter folder.

        Raises:
            InputError: the output holds another run, too many clips cannot be read, or the loss is not finite.
        """
        config, steps = self.config, self.config.stage.steps
        progress = self._resume()
        meter, log = Meter(), self.output / "log.jsonl"
        pin_memory = self.accelerator.device.type == "cuda"
        batches = step_batches(self.dataset, config, self.layout, progress.step, pin_memory)
        self.trackers.start()
        for step in range(progress.step, steps):
            # Step
            start = perf_counter()
            losses, sigmas, norm, tokens, bad = self._step(step, batches)
            progress.step = step + 1
            if self.average is not None:
                self.average.update(step)
            elapsed = perf_counter() - start
            progress.seconds += elapsed
            meter.add(losses, sigmas, norm, tokens, elapsed)
            self._note_bad(bad, progress)

            # Report
            if progress.step % config.logging.every == 0 or progress.step == steps:
                rate = learning_rate(step, steps, config.optimiser)
                line = meter.report(progress.step, steps, rate, self.accelerator.device)
                if self.accelerator.is_main_process:
                    append_line(log, line)
                    logger.info(sentence(line, steps))
                self.trackers.log(scalars(line), progress.step)

            # Save
            if progress.step % config.saving.every == 0 or progress.step == steps:
                self._share_bad(progress)
                self.state.save(progress)

            # Validate
            if config.validation.every and progress.step % config.validation.every == 0:
                self._validate(progress.step)
            if config.held_out.every and progress.step % config.held_out.every == 0:
                self._measure_held_out(progress.step)
        self._share_bad(progress)
        self._save_adapter(steps)
        self.trackers.finish()
        return self.output / "adapter"

    def _resume(self) -> Progress:
        config, main = self.config, self.accelerator.is_main_process
        if main:
            check_same_run(self.output, self.layout.global_batch, config)
            check_same_clips(self.output, config.data.manifests)
            save_config(config, self.output / "train.yaml")
        progress = self.state.load()
        if progress.step > config.stage.steps:
            raise InputError(
                f"output '{config.output}' is at step {progress.step} and stage.steps is {config.stage.steps}; "
                "raise it or choose another output folder"
            )
        if main:
            for name in ("log.jsonl", HELD_OUT_LOG):
                forget_after(self.output / name, progress.step)
            logger.info(self.table)
            logger.info(
                f"{config.stage.name}: step {progress.step} to {config.stage.steps}, {len(self.dataset)} clips, "
                f"{self.layout.global_batch} a step on {self.layout.processes} process(es), "
                f"{self.accelerator.distributed_type.value}, {config.precision.value}, {self.accelerator.device}"
            )
        return progress

    def _step(self, step: int, batches: Iterator[MicroBatch]) -> tuple[Tensor, Tensor, float, int, dict[str, str]]:
        """Losses and noise levels of the global batch, norm of the gradient, video tokens, clips that were bad."""
        config, accelerator = self.config, self.accelerator
        set_learning_rate(self.optimiser, learning_rate(step, config.stage.steps, config.optimiser))
        told, tokens, norm = [], 0, 0.0
        bad: dict[str, str] = {}
        for _ in range(config.accumulation):
            micro = next(batches).to(accelerator.device)
            bad.update(micro.bad)
            with accelerator.accumulate(self.model):
                result = self._loss(micro)
                self._hold_finite("loss", result.loss, step, micro)
                accelerator.backward(result.loss.mean())
                if accelerator.sync_gradients:
                    norm = self._clip(step, micro)
                self.optimiser.step()
                self.optimiser.zero_grad()
            told.append(torch.stack([result.loss.detach(), result.sigmas]))
            frames, height, width = micro.batch.latents.shape[2:]
            tokens += self.layout.batch * self.layout.processes * frames * (height // 2) * (width // 2)
        everywhere = accelerator.gather(torch.cat(told, dim=1).T.contiguous())  # (global batch, 2)
        return everywhere[:, 0], everywhere[:, 1], norm, tokens, bad

    def _loss(self, micro: MicroBatch) -> StepLoss:
        stage, given = self.config.stage, (self.model, micro.batch, micro.draws)
        if stage.distillation is not None:
            return distillation_loss(*given, stage.distillation, stage.loss, self._input_dtype)
        return stage_loss(*given, stage.loss, stage.dropout, self._input_dtype)

    def _clip(self, step: int, micro: MicroBatch) -> float:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimiser.clip_norm)
        norm = torch.as_tensor(0.0 if norm is None else norm)
        self._hold_finite("gradient", norm[None], step, micro)
        return float(norm)

    def _hold_finite(self, what: str, values: Tensor, step: int, micro: MicroBatch) -> None:
        """Stops before the weights are touched, with the clips' names saved."""
        if bool(torch.isfinite(values).all()):
            return
        path = self.output / f"not_finite_{self.accelerator.process_index}.json"
        found = {"step": step + 1, "what": what, "clips": micro.names, "values": [str(v) for v in values.tolist()]}
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        raise InputError(
            f"the {what} of step {step + 1} is not finite; its clips are named in '{path}'; "
            "take them out of the manifest, or lower optimiser.learning_rate"
        )

    def _note_bad(self, bad: dict[str, str], progress: Progress) -> None:
        for name, reason in bad.items():
            if name not in progress.bad:
                logger.warning(f"clip '{name}' cannot be read and is replaced: {reason}")
                progress.bad[name] = reason
        share, limit = len(progress.bad) / len(self.dataset), self.config.data.max_bad_share
        if share > limit:
            raise InputError(
                f"{len(progress.bad)} of {len(self.dataset)} clips cannot be read, more than data.max_bad_share = "
                f"{limit:g}; the first is '{next(iter(progress.bad))}'; prepare the corpus again"
            )

    def _share_bad(self, progress: Progress) -> None:
        """What any process could not read is known to all of them."""
        for name, reason in sorted(gather_object(list(progress.bad.items()))):
            progress.bad.setdefault(name, reason)
        if progress.bad and self.accelerator.is_main_process:
            logger.warning(f"{len(progress.bad)} of {len(self.dataset)} clips could not be read so far")

    def _validate(self, step: int) -> None:
        assert self._sample is not None
        folder = self.output / "validation" / f"step-{step:08d}" if self.accelerator.is_main_process else None
        model = self.accelerator.unwrap_model(self.model).eval()
        with self._averaged(), torch.no_grad(), self.accelerator.autocast():
            # Without autocast in the model itself, FSDP computes in another type than it keeps.
            dtype = self._input_dtype if is_sharded(self.accelerator) else None
            result = self._sample(model, self.config.validation, folder, dtype)
        model.train()
        self.trackers.log({f"validation/{name}": value for name, value in result.metrics.items()}, step)
        if result.contact_sheet is not None:
            self.trackers.picture("validation/contact_sheet", result.contact_sheet, step)
        if result.video is not None:
            self.trackers.video("validation/video", result.video, step)

    def _measure_held_out(self, step: int) -> None:
        assert self.held_out is not None
        self.model.eval()
        with self._averaged(), torch.no_grad(), self.accelerator.autocast():
            errors = self.held_out.measure(self.model, self.accelerator.device, self._input_dtype)
        self.model.train()
        if self.accelerator.is_main_process:
            logger.info(held_out_line(self.output, step, errors))
        self.trackers.log(held_out_scalars(errors), step)

    def _save_adapter(self, step: int) -> None:
        described, base_names = self.origin.adapter(self.config, step)
        bases = set(base_names)
        state = self.state.whole(lambda name: part_of(name) != BASE or plain_name(name) in bases)
        if self.accelerator.is_main_process:
            write_state(
                *(state, self.output / "adapter", described, self.config, base_names),
                motion=self.motion,
                dtype=torch.float16 if self.config.stage.half else None,
            )
            logger.info(f"wrote '{self.output / 'adapter'}': {', '.join(described.modules)}")
        self.accelerator.wait_for_everyone()

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.applied()


def _checkpoint_bytes(model: nn.Module, config: TrainConfig, kind: DistributedType) -> int:
    """Weights and two moments of what trains (and its average) in a checkpoint.

    FSDP writes the frozen weights too.
    """
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    frozen = sum(value.numel() * value.element_size() for value in model.parameters() if not value.requires_grad)
    tensors = 4 if config.optimiser.ema_decay else 3
    return trained * tensors * 4 + (frozen if kind is DistributedType.FSDP else 0)
