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
from fantasytalking.data.collate import Batch, Collate
from fantasytalking.data.dataset import BucketBatchSampler, PortraitDataset, Sample
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.rng import Draws, draw


class Request(NamedTuple):
    """One clip asked for: which, and for which place of which step."""

    clip: int
    """Its number in the dataset."""
    step: int
    place: int


class Delivery(NamedTuple):
    """The clip that came, and those that should have but could not be read."""

    sample: Sample
    request: Request
    bad: dict[str, str]
    """Name of the clip -> why."""


class MicroBatch(NamedTuple):
    """What one forward pass takes."""

    batch: Batch
    draws: Draws
    names: list[str]
    bad: dict[str, str]

    def to(self, device: torch.device) -> "MicroBatch":
        """Its tensors on `device`."""
        batch = Batch(
            latents=self.batch.latents.to(device, non_blocking=True),
            conditions=self.batch.conditions.to(device=device),
            lip_mask=self.batch.lip_mask.to(device, non_blocking=True),
        )
        return self._replace(batch=batch, draws=Draws(*(value.to(device, non_blocking=True) for value in self.draws)))


@dataclass(frozen=True)
class Layout:
    """How a global batch is spread."""

    batch: int
    accumulation: int
    processes: int
    rank: int

    @property
    def global_batch(self) -> int:
        """Clips of a step."""
        return self.batch * self.accumulation * self.processes

    def places(self, micro_batch: int) -> range:
        """Places of the global batch that are this process's in its micro-batch number `micro_batch`."""
        first = (micro_batch * self.processes + self.rank) * self.batch
        return range(first, first + self.batch)


class StepSampler(Sampler[list[Request]]):
    """The micro-batches of this process from step `first` until step `last`, in order."""

    def __init__(self, dataset: PortraitDataset, layout: Layout, seed: int, first: int, last: int) -> None:
        self._global = BucketBatchSampler(dataset.records, layout.global_batch, seed=seed)
        self._layout, self._first, self._last = layout, first, last

    def __len__(self) -> int:
        """Micro-batches."""
        return (self._last - self._first) * self._layout.accumulation

    def __iter__(self) -> Iterator[list[Request]]:
        step = self._first
        while step < self._last:
            self._global.set_position(*divmod(step, len(self._global)))
            for indices in self._global:
                if step == self._last:
                    return
                for micro_batch in range(self._layout.accumulation):
                    yield [Request(indices[place], step, place) for place in self._layout.places(micro_batch)]
                step += 1


class TolerantClips(Dataset[Delivery | InputError]):
    """Clips that are replaced by the next one of their bucket when they cannot be read."""

    def __init__(self, dataset: PortraitDataset) -> None:
        self._dataset = dataset
        self._bucket_of: list[list[int]] = []
        self._place_in: list[int] = []
        buckets: dict[tuple[float, ...], list[int]] = defaultdict(list)
        for index, record in enumerate(dataset.records):
            bucket = buckets[record.width, record.height, record.frames, record.fps, record.people]
            self._bucket_of.append(bucket)
            self._place_in.append(len(bucket))
            bucket.append(index)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, request: Request) -> Delivery | InputError:
        """The clip asked for or the next that can be read; an error, given and not raised, where none can.

        What a loader's process raises reaches the main one as a printed traceback.
        """
        bad: dict[str, str] = {}
        bucket, place = self._bucket_of[request.clip], self._place_in[request.clip]
        for offset in range(len(bucket)):
            index = bucket[(place + offset) % len(bucket)]
            try:
                return Delivery(self._dataset[index], request, bad)
            except InputError as error:
                bad[self._dataset.records[index].clip] = str(error)
        name, reason = next(iter(bad.items()))
        return InputError(f"none of the {len(bucket)} clips of the size of '{name}' can be read: {reason}")


class StepCollate:
    """Deliveries to a micro-batch, with its random numbers, so that the loader's processes draw them too."""

    def __init__(self, collate: Collate, seed: int) -> None:
        self._collate, self._seed = collate, seed

    def __call__(self, given: Sequence[Delivery | InputError]) -> MicroBatch | InputError:
        """Stacks the clips of one step; errors are given on."""
        deliveries: list[Delivery] = []
        for delivery in given:
            if isinstance(delivery, InputError):
                return delivery
            deliveries.append(delivery)
        try:
            batch = self._collate([delivery.sample for delivery in deliveries])
        except InputError as error:
            return error
        places = [delivery.request.place for delivery in deliveries]
        draws = draw(self._seed, deliveries[0].request.step, places, batch.latents.shape[1:])
        names = [delivery.sample.record.clip for delivery in deliveries]
        bad = {name: reason for delivery in deliveries for name, reason in delivery.bad.items()}
        return MicroBatch(batch, draws, names, bad)


def step_batches(
    dataset: PortraitDataset, config: TrainConfig, layout: Layout, first: int, pin_memory: bool
) -> Iterator[MicroBatch]:
    """This process's micro-batches from step `first` to the end.

    Raises:
        InputError: clips do not go together, or no clip of a size can be read; when the step is reached.
    """
    for micro in _step_loader(dataset, config, layout, first, pin_memory):
        if isinstance(micro, InputError):
            raise micro
        yield micro


def _step_loader(
    dataset: PortraitDataset, config: TrainConfig, layout: Layout, first: int, pin_memory: bool
) -> DataLoader[Any]:
    collate = config.data.collate(config.stage.alignment, config.stage.expression is not None)
    return DataLoader(
        TolerantClips(dataset),
        batch_sampler=StepSampler(dataset, layout, config.seed, first, config.stage.steps),
        collate_fn=StepCollate(Collate(collate), config.seed),
        num_workers=config.data.workers,
        pin_memory=pin_memory,
        persistent_workers=False,
    )
