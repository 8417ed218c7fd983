"""From a dataset to the micro-batches of every step: which clips, in which order, and what replaces a bad one.

A global batch has batch x accumulation x processes places. Micro-batch m of process r holds the places
(m x processes + r) x batch onwards, so that the clips of a step do not depend on how they are spread.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fantasytalking.common.errors import InputError
from fantasytalking.data.collate import PortraitCollator, TrainingBatch
from fantasytalking.data.dataset import BucketBatchSampler, PortraitDataset, Sample
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.rng import StepRandomness, step_randomness


class ClipRequest(NamedTuple):
    """One clip asked for: which, and for which place of which step."""

    dataset_index: int
    """Its number in the dataset."""
    step: int
    position: int


class ClipResult(NamedTuple):
    """The clip that came, and those that should have but could not be read."""

    sample: Sample
    request: ClipRequest
    unreadable: dict[str, str]
    """Name of the clip -> why."""


class MicroBatch(NamedTuple):
    """What one forward pass takes."""

    batch: TrainingBatch
    randomness: StepRandomness
    clip_names: list[str]
    unreadable: dict[str, str]

    def to(self, device: torch.device) -> "MicroBatch":
        """Its tensors on `device`."""
        batch = TrainingBatch(
            latents=self.batch.latents.to(device, non_blocking=True),
            conditions=self.batch.conditions.to(device=device),
            lip_mask=self.batch.lip_mask.to(device, non_blocking=True),
        )
        return self._replace(
            batch=batch, randomness=StepRandomness(*(value.to(device, non_blocking=True) for value in self.randomness))
        )


@dataclass(frozen=True)
class BatchLayout:
    """How a global batch is spread."""

    batch_size: int
    gradient_accumulation_steps: int
    world_size: int
    rank: int

    @property
    def global_batch_size(self) -> int:
        """Clips of a step."""
        return self.batch_size * self.gradient_accumulation_steps * self.world_size

    def positions(self, micro_batch_index: int) -> range:
        """Places of the global batch that are this process's in its micro-batch number `micro_batch_index`."""
        first = (micro_batch_index * self.world_size + self.rank) * self.batch_size
        return range(first, first + self.batch_size)


class StepSampler(Sampler[list[ClipRequest]]):
    """The micro-batches of this process from step `first` until step `end_step`, in order."""

    def __init__(
        self, dataset: PortraitDataset, layout: BatchLayout, seed: int, start_step: int, end_step: int
    ) -> None:
        self._batch_sampler = BucketBatchSampler(dataset.records, layout.global_batch_size, seed=seed)
        self._layout, self._start_step, self._end_step = layout, start_step, end_step

    def __len__(self) -> int:
        """Micro-batches."""
        return (self._end_step - self._start_step) * self._layout.gradient_accumulation_steps

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        step = self._start_step
        while step < self._end_step:
            self._batch_sampler.set_position(*divmod(step, len(self._batch_sampler)))
            for indices in self._batch_sampler:
                if step == self._end_step:
                    return
                for micro_batch in range(self._layout.gradient_accumulation_steps):
                    yield [ClipRequest(indices[place], step, place) for place in self._layout.positions(micro_batch)]
                step += 1


class FaultTolerantDataset(Dataset[ClipResult | InputError]):
    """Clips that are replaced by the next one of their bucket when they cannot be read."""

    def __init__(self, dataset: PortraitDataset) -> None:
        self._dataset = dataset
        self._buckets_by_index: list[list[int]] = []
        self._positions_in_bucket: list[int] = []
        buckets: dict[tuple[float, ...], list[int]] = defaultdict(list)
        for index, record in enumerate(dataset.records):
            bucket = buckets[record.width, record.height, record.frames, record.fps, record.people]
            self._buckets_by_index.append(bucket)
            self._positions_in_bucket.append(len(bucket))
            bucket.append(index)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, request: ClipRequest) -> ClipResult | InputError:
        """The clip asked for or the next that can be read; an error, given and not raised, where none can.

        What a loader's process raises reaches the main one as a printed traceback.
        """
        bad: dict[str, str] = {}
        bucket, place = self._buckets_by_index[request.dataset_index], self._positions_in_bucket[request.dataset_index]
        for offset in range(len(bucket)):
            index = bucket[(place + offset) % len(bucket)]
            try:
                return ClipResult(self._dataset[index], request, bad)
            except InputError as error:
                bad[self._dataset.records[index].clip] = str(error)
        name, reason = next(iter(bad.items()))
        return InputError(f"none of the {len(bucket)} clips of the size of '{name}' can be read: {reason}")


class StepCollator:
    """Deliveries to a micro-batch, with its random numbers, so that the loader's processes draw them too."""

    def __init__(self, collator: PortraitCollator, seed: int) -> None:
        self._collator, self._seed = collator, seed

    def __call__(self, results: Sequence[ClipResult | InputError]) -> MicroBatch | InputError:
        """Stacks the clips of one step; errors are given on."""
        deliveries: list[ClipResult] = []
        for delivery in results:
            if isinstance(delivery, InputError):
                return delivery
            deliveries.append(delivery)
        try:
            batch = self._collator([delivery.sample for delivery in deliveries])
        except InputError as error:
            return error
        places = [delivery.request.position for delivery in deliveries]
        draws = step_randomness(self._seed, deliveries[0].request.step, places, batch.latents.shape[1:])
        names = [delivery.sample.record.clip for delivery in deliveries]
        bad = {name: reason for delivery in deliveries for name, reason in delivery.unreadable.items()}
        return MicroBatch(batch, draws, names, bad)


def iter_micro_batches(
    dataset: PortraitDataset, config: TrainConfig, layout: BatchLayout, start_step: int, pin_memory: bool
) -> Iterator[MicroBatch]:
    """This process's micro-batches from step `start_step` to the end.

    Raises:
        InputError: clips do not go together, or no clip of a size can be read; when the step is reached.
    """
    for micro in _build_dataloader(dataset, config, layout, start_step, pin_memory):
        if isinstance(micro, InputError):
            raise micro
        yield micro


def _build_dataloader(
    dataset: PortraitDataset, config: TrainConfig, layout: BatchLayout, start_step: int, pin_memory: bool
) -> DataLoader[Any]:
    collate = config.data.collate_config(config.stage.alignment, config.stage.expression is not None)
    return DataLoader(
        FaultTolerantDataset(dataset),
        batch_sampler=StepSampler(dataset, layout, config.seed, start_step, config.stage.steps),
        collate_fn=StepCollator(PortraitCollator(collate), config.seed),
        num_workers=config.data.num_workers,
        pin_memory=pin_memory,
        persistent_workers=False,
    )
