"""Prepared clips for training: a dataset over a manifest, and batches of one resolution at a time.

Needs torch and safetensors only: what the training node does not have (MediaPipe, PyAV, OpenCV) is not imported.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Sampler

from fantasytalking.common.errors import InputError
from fantasytalking.data.features import ClipFeatures, load_features
from fantasytalking.data.manifest import ClipRecord, read_manifest
from fantasytalking.motion_normalizer import MotionNormalizer


class Sample(NamedTuple):
    """A clip: its line in the manifest and what its feature file holds."""

    record: ClipRecord
    features: ClipFeatures


class PortraitDataset(Dataset[Sample]):
    """The clips of one or several manifests, in their order.

    Args:
        motion: constants by which the clips' motion is normalised anew; None = as it was prepared.

    Raises:
        InputError: a manifest is missing or damaged, or a feature file is not there.
    """

    def __init__(self, *manifests: str | Path, motion_normalizer: MotionNormalizer | None = None) -> None:
        assert manifests, "at least one manifest"
        found = [(record, Path(path).parent / record.features) for path in manifests for record in read_manifest(path)]
        missing = [path for _, path in found if not path.is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} feature files are not there, '{missing[0]}' for one; prepare the corpus again"
            )
        self.records = [
            record if motion_normalizer is None else record.renormalized(motion_normalizer) for record, _ in found
        ]
        self._paths = [path for _, path in found]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """The clip number `index`.

        Raises:
            InputError: its feature file is damaged or not of the clip that the manifest describes.
        """
        record, features = self.records[index], load_features(self._paths[index])
        height, width = features.latents.shape[-2:]
        fits = record.width * height == record.height * width and len(features.frame_times) == record.frames
        if len(features.face) != record.people:
            raise InputError(
                f"'{self._paths[index]}' tells of {len(features.face)} people, the manifest of {record.people}; "
                "prepare the corpus again"
            )
        if not fits:
            raise InputError(
                f"'{self._paths[index]}' holds {len(features.frame_times)} frames of {width}x{height} latents; the "
                f"manifest says {record.frames} of {record.width}x{record.height} pixels; prepare the corpus again"
            )
        return Sample(record, features)


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of clips of one size, length and number of people, the same number of them on every process.

    The order derives from (seed, epoch) alone and is shared by the processes; each takes its own part of every global
    batch. A bucket that does not fill its last global batch is filled up from its own beginning. To go on in the middle
    of an epoch, call `set_position`. The loader must not be sharded once more.
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
        """The next iteration is of this epoch and begins with this batch; later ones of it begin with the first."""
        assert 0 <= batch <= len(self), f"batch {batch} of {len(self)}"
        self._epoch, self._start_batch = epoch, batch

    def __len__(self) -> int:
        """Batches of a whole epoch on each process."""
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
            order = [bucket[place] for place in torch.randperm(len(bucket), generator=generator).tolist()]
            for start in range(0, len(order), self._global_batch_size):
                batches.append([order[place % len(order)] for place in range(start, start + self._global_batch_size)])
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
