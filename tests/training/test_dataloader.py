"""Order of the clips for one process and many, from any step, and replacement of unreadable ones."""

from collections import Counter
from pathlib import Path

import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.dataset import BucketBatchSampler, PortraitDataset
from fantasytalking.training.dataloader import (
    BatchLayout,
    ClipRequest,
    ClipResult,
    FaultTolerantDataset,
    StepSampler,
    iter_micro_batches,
)
from tests.helpers.errors import raises_input_error
from tests.training.conftest import Configure
from tests.training.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> PortraitDataset:
    """Eleven clips of two sizes."""
    return PortraitDataset(make_corpus(tmp_path_factory.mktemp("buckets"), clips=11, sizes=((64, 64), (96, 64))))


def requests(dataset: PortraitDataset, layout: BatchLayout, first: int = 0, last: int = 12) -> list[list[ClipRequest]]:
    sampler = StepSampler(dataset, layout, 5, first, last)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_global_batches_do_not_depend_on_processes_and_micro_batches(buckets: PortraitDataset):
    alone = requests(buckets, BatchLayout(batch_size=4, gradient_accumulation_steps=1, world_size=1, rank=0))
    spread: dict[int, list[ClipRequest]] = {}
    for rank in range(2):
        for micro_batch in requests(
            buckets, BatchLayout(batch_size=1, gradient_accumulation_steps=2, world_size=2, rank=rank)
        ):
            spread.setdefault(micro_batch[0].step, []).extend(micro_batch)
    for step, batch in enumerate(alone):
        assert sorted(spread[step], key=lambda request: request.position) == batch
        assert [request.position for request in batch] == [0, 1, 2, 3]


def test_sampling_starts_at_any_step(buckets: PortraitDataset):
    layout = BatchLayout(batch_size=2, gradient_accumulation_steps=2, world_size=1, rank=0)
    whole = requests(buckets, layout)
    for first in range(12):
        assert requests(buckets, layout, first) == whole[2 * first :]


def test_a_step_has_one_size_and_three_epochs_have_every_clip_three_times(buckets: PortraitDataset):
    steps = requests(buckets, BatchLayout(batch_size=3, gradient_accumulation_steps=1, world_size=1, rank=0), last=11)
    for batch in steps:
        assert len({buckets.records[request.dataset_index].width for request in batch}) == 1
    assert Counter(request.dataset_index for batch in steps for request in batch) == dict.fromkeys(range(11), 3)


def test_number_of_workers_does_not_change_the_batches(configure: Configure):
    layout = BatchLayout(batch_size=2, gradient_accumulation_steps=1, world_size=1, rank=0)
    loaded = []
    for workers in (0, 2):
        config = configure(data__num_workers=workers, stage__steps=3)
        dataset = PortraitDataset(*config.data.manifests)
        loaded.append(list(iter_micro_batches(dataset, config, layout, 0, pin_memory=False)))
    for one, other in zip(*loaded, strict=True):
        assert one.clip_names == other.clip_names
        assert one.randomness.noise.equal(other.randomness.noise)
        assert one.batch.latents.equal(other.batch.latents)


def test_an_unreadable_clip_is_replaced_by_the_next_of_its_size(tmp_path: Path):
    dataset = PortraitDataset(make_corpus(tmp_path, clips=6, sizes=((64, 64), (96, 64))))
    for number in (2, 4):
        (tmp_path / "features" / f"clip{number:03d}.safetensors").write_bytes(b"damaged")
    delivery = FaultTolerantDataset(dataset)[ClipRequest(dataset_index=2, step=0, position=0)]
    assert isinstance(delivery, ClipResult)
    assert delivery.sample.record.clip == "clip000"
    assert sorted(delivery.unreadable) == ["clip002", "clip004"]
    (tmp_path / "features" / "clip000.safetensors").write_bytes(b"damaged")
    refused = FaultTolerantDataset(dataset)[ClipRequest(dataset_index=2, step=0, position=0)]
    assert isinstance(refused, InputError)
    assert (refused.code, refused.value) == (ErrorCode.malformed_file, "clip002")
    other = FaultTolerantDataset(dataset)[ClipRequest(dataset_index=1, step=0, position=0)]
    assert isinstance(other, ClipResult) and other.unreadable == {}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_raised_without_traceback(configure: Configure, tmp_path: Path, workers: int):
    manifest = make_corpus(tmp_path / "corpus", clips=2)
    for file in (tmp_path / "corpus" / "features").iterdir():
        file.write_bytes(b"damaged")
    config = configure(manifest=manifest, data__num_workers=workers)
    dataset, layout = (
        PortraitDataset(manifest),
        BatchLayout(batch_size=2, gradient_accumulation_steps=1, world_size=1, rank=0),
    )
    with raises_input_error(ErrorCode.malformed_file, "data.manifests") as caught:
        next(iter_micro_batches(dataset, config, layout, 0, pin_memory=False))
    assert "Traceback" not in str(caught.value)


def test_any_seed_is_valid(configure: Configure):
    dataset = PortraitDataset(*configure().data.manifests)
    first, second = (
        [clip for batch in BucketBatchSampler(dataset.records, 2, seed=seed) for clip in batch]
        for seed in (0, 2**63 - 1)
    )
    assert first != second and sorted(first) == sorted(second)
