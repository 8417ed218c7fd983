"""Provides the dataset of prepared clips and a sampler of batches of one resolution.

It needs torch and safetensors only: MediaPipe, PyAV and OpenCV, which a training node may lack, are not imported.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.features import ClipFeatures, load_features
from fantasytalking.data.manifest import ClipRecord, read_manifest
from fantasytalking.motion_normalizer import MotionNormalizer


class Sample(NamedTuple):
    """A clip: its manifest record and its features."""

    record: ClipRecord
    features: ClipFeatures


class PortraitDataset(Dataset[Sample]):
    """The clips of one or more manifests, in their order.

    Args:
        manifests: paths of manifest.jsonl files.
        motion_normalizer: normalizer that replaces the one of the preparation; None keeps the prepared intensities.

    Raises:
        InputError: a manifest is missing or damaged, or a feature file is missing.
    """

    def __init__(self, *manifests: str | Path, motion_normalizer: MotionNormalizer | None = None) -> None:
        assert manifests, "at least one manifest"
        found = [(record, Path(path).parent / record.features) for path in manifests for record in read_manifest(path)]
        missing = [path for _, path in found if not path.is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} feature files are missing, the first is '{missing[0]}'; prepare the corpus again",
                code=ErrorCode.missing_file,
                field="features",
                value=str(missing[0]),
            )
        self.records = [
            record if motion_normalizer is None else record.renormalized(motion_normalizer) for record, _ in found
        ]
        self._paths = [path for _, path in found]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Loads clip number `index`.

        Raises:
            InputError: its feature file is damaged or does not match the manifest.
        """
        record, features = self.records[index], load_features(self._paths[index])
        height, width = features.latents.shape[-2:]
        fits = record.width * height == record.height * width and len(features.frame_times) == record.frames
        if len(features.face) != record.people:
            raise InputError(
                f"'{self._paths[index]}' has features of {len(features.face)} people, the manifest {record.people}; "
                "prepare the corpus again",
                code=ErrorCode.conflict,
                field="people",
                value=len(features.face),
            )
        if not fits:
            raise InputError(
                f"'{self._paths[index]}' has {len(features.frame_times)} frames of {width}x{height} latents, the "
                f"manifest {record.frames} frames of {record.width}x{record.height} pixels; prepare the corpus again",
                code=ErrorCode.conflict,
                field="frames",
                value=(len(features.frame_times), height, width),
            )
        return Sample(record, features)


class BucketBatchSampler(Sampler[list[int]]):
    """Samples batches of clips of one size, length and number of people, equally many on every process.

    The order depends only on (seed, epoch) and is the same on all processes; each takes its part of every global batch.
    If a bucket does not fill its last global batch, it is filled from the beginning of the bucket. To resume within an
    epoch, call `set_position`. The DataLoader must not be sharded again.

    Args:
        records: the clips of the dataset.
        batch_size: clips per batch and process.
        seed: seed of the order.
        rank: index of this process.
        world_size: number of processes.
    """

    def __init__(
        self, records: Sequence[ClipRecord], batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        assert batch_size >= 1 and 0 <= rank < world_size, f"batch {batch_size}, rank {rank} of {world_size}"
        buckets: dict[tuple[float, ...], list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            buckets[record.width, record.height, record.frames, record.fps, record.people].append(index)
        self._buckets = [buckets[key] for key in sorted(buckets)]
        self._global_batch_size = batch_size * world_size
        self._rank_slice = slice(rank * batch_size, (rank + 1) * batch_size)
        self._seed, self._epoch, self._start_batch = seed, 0, 0

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Starts the next iteration at this batch of this epoch; later iterations start at the first batch."""
        assert 0 <= batch <= len(self), f"batch {batch} of {len(self)}"
        self._epoch, self._start_batch = epoch, batch

    def __len__(self) -> int:
        """Number of batches per epoch on each process."""
        return sum(-(-len(bucket) // self._global_batch_size) for bucket in self._buckets)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._global_batches()
        first, self._start_batch = self._start_batch, 0
        for batch in batches[first:]:
            yield batch[self._rank_slice]

    def _global_batches(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        batches: list[list[int]] = []
        for bucket in self._buckets:
            order = [bucket[index] for index in torch.randperm(len(bucket), generator=generator).tolist()]
            for start in range(0, len(order), self._global_batch_size):
                batches.append([order[index % len(order)] for index in range(start, start + self._global_batch_size)])
        return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
