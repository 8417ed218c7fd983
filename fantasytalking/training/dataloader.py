"""Provides the micro-batches of every step: which clips, in which order, and replacements of unreadable ones.

A global batch has batch_size x gradient_accumulation_steps x world_size positions. Micro-batch m of rank r takes
`batch_size` positions from (m x world_size + r) x batch_size, so the clips of a step do not depend on the distribution.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.collate import PortraitCollator, TrainingBatch
from fantasytalking.data.dataset import BucketBatchSampler, PortraitDataset, Sample
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.rng import StepRandomness, step_randomness
from fantasytalking.training.stop_request import ignore_stop_signals


class ClipRequest(NamedTuple):
    """Request for one clip at a position of a step."""

    dataset_index: int
    """Index in the dataset."""
    step: int
    position: int
    """Position in the global batch."""


class ClipResult(NamedTuple):
    """A clip, and the unreadable clips that it replaces."""

    sample: Sample
    request: ClipRequest
    unreadable: dict[str, str]
    """Reason by clip name."""


class MicroBatch(NamedTuple):
    """Input of one forward pass."""

    batch: TrainingBatch
    randomness: StepRandomness
    clip_names: list[str]
    unreadable: dict[str, str]
    """Reason by name of each clip that could not be read."""

    def to(self, device: torch.device) -> "MicroBatch":
        """Returns a copy with all tensors on `device`."""
        batch = TrainingBatch(
            latents=self.batch.latents.to(device, non_blocking=True),
            conditions=self.batch.conditions.to(device=device),
            lip_mask=self.batch.lip_mask.to(device, non_blocking=True),
            num_given_frames=self.batch.num_given_frames,
        )
        return self._replace(batch=batch, randomness=self.randomness.to(device))


@dataclass(frozen=True)
class BatchLayout:
    """Distribution of a global batch over processes and micro-batches."""

    batch_size: int
    gradient_accumulation_steps: int
    world_size: int
    rank: int

    @property
    def global_batch_size(self) -> int:
        """Clips per step."""
        return self.batch_size * self.gradient_accumulation_steps * self.world_size

    def positions(self, micro_batch_index: int) -> range:
        """Returns the positions of this process's micro-batch number `micro_batch_index` in the global batch."""
        first = (micro_batch_index * self.world_size + self.rank) * self.batch_size
        return range(first, first + self.batch_size)


class StepSampler(Sampler[list[ClipRequest]]):
    """Samples the micro-batches of this process from step `start_step` up to, but not including, `end_step`."""

    def __init__(
        self, dataset: PortraitDataset, layout: BatchLayout, seed: int, start_step: int, end_step: int
    ) -> None:
        self._batch_sampler = BucketBatchSampler(dataset.records, layout.global_batch_size, seed=seed)
        self._layout, self._start_step, self._end_step = layout, start_step, end_step

    def __len__(self) -> int:
        """Number of micro-batches."""
        return (self._end_step - self._start_step) * self._layout.gradient_accumulation_steps

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        step = self._start_step
        while step < self._end_step:
            self._batch_sampler.set_position(*self._batch_sampler.position_of(step))
            for indices in self._batch_sampler:
                if step == self._end_step:
                    return
                for micro_batch in range(self._layout.gradient_accumulation_steps):
                    positions = self._layout.positions(micro_batch)
                    yield [ClipRequest(indices[position], step, position) for position in positions]
                step += 1


class FaultTolerantDataset(Dataset[ClipResult | InputError]):
    """Dataset that replaces an unreadable clip by the next one of its bucket."""

    def __init__(self, dataset: PortraitDataset) -> None:
        self._dataset = dataset
        self._buckets_by_index: list[list[int]] = []
        self._positions_in_bucket: list[int] = []
        buckets: dict[tuple[float, ...], list[int]] = defaultdict(list)
        for index, record in enumerate(dataset.records):
            bucket = buckets[record.bucket]
            self._buckets_by_index.append(bucket)
            self._positions_in_bucket.append(len(bucket))
            bucket.append(index)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, request: ClipRequest) -> ClipResult | InputError:
        """Returns the requested clip or the next readable one, or an error if the bucket has none.

        The error is returned rather than raised: an exception in a worker reaches the main process as a traceback.
        """
        unreadable: dict[str, str] = {}
        bucket, start = self._buckets_by_index[request.dataset_index], self._positions_in_bucket[request.dataset_index]
        for offset in range(len(bucket)):
            index = bucket[(start + offset) % len(bucket)]
            try:
                return ClipResult(self._dataset[index], request, unreadable)
            except InputError as error:
                unreadable[self._dataset.records[index].clip] = str(error)
        name, reason = next(iter(unreadable.items()))
        return InputError(
            f"none of the {len(bucket)} clips of the size of '{name}' can be read ({reason}); prepare the corpus again",
            code=ErrorCode.malformed_file,
            field="data.manifests",
            value=name,
        )


class StepCollator:
    """Collates clips to a micro-batch and draws its random numbers, in the workers of the data loader."""

    def __init__(self, collator: PortraitCollator, seed: int) -> None:
        self._collator, self._seed = collator, seed
        self._registered = collator.config.conditions

    def __call__(self, results: Sequence[ClipResult | InputError]) -> MicroBatch | InputError:
        """Returns the micro-batch of clips of one step, or the first error."""
        clips: list[ClipResult] = []
        for result in results:
            if isinstance(result, InputError):
                return result
            clips.append(result)
        try:
            batch = self._collator([clip.sample for clip in clips])
        except InputError as error:
            return error
        positions = [clip.request.position for clip in clips]
        step, shape = clips[0].request.step, batch.latents.shape[1:]
        randomness = step_randomness(self._seed, step, positions, shape, self._registered)
        names = [clip.sample.record.clip for clip in clips]
        unreadable = {name: reason for clip in clips for name, reason in clip.unreadable.items()}
        return MicroBatch(batch, randomness, names, unreadable)


def iter_micro_batches(
    dataset: PortraitDataset, config: TrainConfig, layout: BatchLayout, start_step: int, pin_memory: bool
) -> Iterator[MicroBatch]:
    """Yields this process's micro-batches from step `start_step` to the end.

    Raises:
        InputError: the clips of a step do not fit together, no clip of a bucket is readable, or a loading process died.
    """
    try:
        for micro_batch in _build_dataloader(dataset, config, layout, start_step, pin_memory):
            if isinstance(micro_batch, InputError):
                raise micro_batch
            yield micro_batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a data loading process ended unexpectedly ({str(error).splitlines()[0]}); it may have run out of memory: "
            "lower data.num_workers",
            code=ErrorCode.insufficient_resources,
            field="data.num_workers",
            value=config.data.num_workers,
        ) from error


def _build_dataloader(
    dataset: PortraitDataset, config: TrainConfig, layout: BatchLayout, start_step: int, pin_memory: bool
) -> DataLoader[Any]:
    return DataLoader(
        FaultTolerantDataset(dataset),
        batch_sampler=StepSampler(dataset, layout, config.seed, start_step, config.stage.steps),
        collate_fn=StepCollator(PortraitCollator(config.collate_config()), config.seed),
        num_workers=config.data.num_workers,
        pin_memory=pin_memory,
        persistent_workers=False,
        worker_init_fn=ignore_stop_signals,
    )
