"""Provides the dataset of prepared clips and a sampler of batches of one resolution.

It needs torch and safetensors only: MediaPipe, PyAV and OpenCV, which a training node may lack, are not imported.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from fantasytalking.audio_tokens import AudioEncoderSpec, check_same_encoder
from fantasytalking.common.config import did_you_mean
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.features import ClipFeatures, load_features, read_audio_encoder
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
        exclude: names of clips to leave out, or shell patterns.

    Raises:
        InputError: a manifest is missing or damaged, a feature file is missing, or a pattern of `exclude` matches no
            clip or leaves none, or the manifests were prepared with different audio encoders.
    """

    def __init__(
        self,
        *manifests: str | Path,
        motion_normalizer: MotionNormalizer | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        assert manifests, "at least one manifest"
        found = [(record, Path(path).parent / record.features) for path in manifests for record in read_manifest(path)]
        left_out = matching_clips([record.clip for record, _ in found], exclude)
        found = [(record, path) for record, path in found if record.clip not in left_out]
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
        self.audio_encoder = corpus_audio_encoder(manifests, self._paths)
        """Encoder of the first readable clip, and of all others; None: no clip is readable."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Loads clip number `index`.

        Raises:
            InputError: its feature file is damaged, does not match the manifest, or was made with another audio
                encoder than the other clips.
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
        if self.audio_encoder is not None and features.audio_encoder is not None:
            _check_clip_encoder(self._paths[index], features.audio_encoder, self.audio_encoder)
        return Sample(record, features)


def corpus_audio_encoder(manifests: Sequence[str | Path], paths: Sequence[Path]) -> AudioEncoderSpec | None:
    """Returns the audio encoder of a corpus, of which the first readable clip of each manifest is read.

    Args:
        manifests: paths of the manifest.jsonl files.
        paths: of all feature files.

    Returns:
        The encoder, or None if no clip is readable.

    Raises:
        InputError: the manifests were prepared with different audio encoders.
    """
    expected: AudioEncoderSpec | None = None
    for folder in dict.fromkeys(Path(manifest).parent for manifest in manifests):
        for path in paths:
            if not path.is_relative_to(folder):
                continue
            try:
                found = read_audio_encoder(path)
            except InputError:  # reported when the clip is used
                continue
            expected = expected or found
            _check_clip_encoder(path, found, expected)
            break
    return expected


def _check_clip_encoder(path: Path, found: AudioEncoderSpec, expected: AudioEncoderSpec) -> None:
    check_same_encoder(
        found,
        expected,
        f"the audio tokens in '{path}' are those of",
        "prepare all clips with one audio_encoder",
    )


def matching_clips(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Returns the names that match a pattern; each pattern must match one, and one name must match none."""
    matching: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise InputError(
                f"data.exclude has '{pattern}', which matches no clip of the manifests;{did_you_mean(pattern, names)} "
                "give names of clips or shell patterns",
                code=ErrorCode.unknown_key,
                field="data.exclude",
                value=pattern,
            )
        matching |= found
    if matching and matching.issuperset(names):
        raise InputError(
            f"data.exclude leaves none of the {len(names)} clips; exclude fewer",
            code=ErrorCode.out_of_range,
            field="data.exclude",
            value=list(patterns),
        )
    return matching


class BucketBatchSampler(Sampler[list[int]]):
    """Samples batches of clips of one size, length and number of people, equally many on every process.

    The order depends only on (seed, epoch) and is the same on all processes; each takes its part of every global batch.
    Clips that do not fill a global batch of their bucket wait for the next epoch, whose clips of the bucket follow
    them. Every clip is thus sampled once per epoch on average, however small its bucket; epochs differ in length. To
    resume within an epoch, call `set_position`. The DataLoader must not be sharded again.

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
            buckets[record.bucket].append(index)
        self._buckets = [buckets[key] for key in sorted(buckets)]
        self._global_batch_size = batch_size * world_size
        self._rank_slice = slice(rank * batch_size, (rank + 1) * batch_size)
        self._seed, self._epoch, self._start_batch = seed, 0, 0

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Starts the next iteration at this batch of this epoch; later iterations start at the first batch."""
        self._epoch, self._start_batch = epoch, batch
        assert 0 <= batch <= len(self), f"batch {batch} of {len(self)}"

    def position_of(self, step: int) -> tuple[int, int]:
        """Returns the epoch of global batch number `step`, counted over all epochs, and its number within the epoch."""
        assert self._buckets, "no clips"
        first, last = 0, (step + 1) * self._global_batch_size  # a bucket of one clip fills a batch in that many epochs
        while last - first > 1:  # the batch lies in an epoch from `first` to before `last`
            middle = (first + last) // 2
            first, last = (middle, last) if self._batches_before(middle) <= step else (first, middle)
        return first, step - self._batches_before(first)

    def __len__(self) -> int:
        """Number of batches on each process in the epoch that `set_position` selected; 0 if its clips fill none."""
        return self._batches_before(self._epoch + 1) - self._batches_before(self._epoch)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._global_batches()
        first, self._start_batch = self._start_batch, 0
        for batch in batches[first:]:
            yield batch[self._rank_slice]

    def _batches_before(self, epoch: int) -> int:
        return sum(epoch * len(bucket) // self._global_batch_size for bucket in self._buckets)

    def _global_batches(self) -> list[list[int]]:
        """Global batches of the epoch, in random order.

        A bucket is an endless sequence of permutations, one per epoch, that is cut into global batches; a batch belongs
        to the epoch of its last clip.
        """
        orders, generator = self._orders(self._epoch)
        drawn, size = {self._epoch: orders}, self._global_batch_size
        batches: list[list[int]] = []
        for number, bucket in enumerate(self._buckets):
            count = len(bucket)
            for batch in range(self._epoch * count // size, (self._epoch + 1) * count // size):
                indices = []
                for position in range(batch * size, (batch + 1) * size):
                    epoch, place = divmod(position, count)
                    if count > 1 and epoch not in drawn:
                        drawn[epoch] = self._orders(epoch)[0]
                    indices.append(bucket[int(drawn[epoch][number][place]) if count > 1 else 0])
                batches.append(indices)
        return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]

    def _orders(self, epoch: int) -> tuple[list[Tensor], torch.Generator]:
        """Permutation of each bucket in an epoch, and the generator that drew them."""
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
        return [torch.randperm(len(bucket), generator=generator) for bucket in self._buckets], generator
