"""The dataset and its batches: contents, order and resuming."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fantasytalking.audio_tokens import AudioEncoderSpec, TokenTiming
from fantasytalking.audio_windows import tokens_per_window
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.collate import AudioAlignment, CollateConfig, MaskProjection, PortraitCollator
from fantasytalking.data.dataset import BucketBatchSampler, PortraitDataset
from fantasytalking.data.features import save_features
from fantasytalking.data.manifest import ClipRecord, write_records
from tests.data.feature_corpus import random_features, record, save_clip
from tests.helpers.errors import raises_input_error


@pytest.fixture
def dataset(tmp_path: Path) -> PortraitDataset:
    clips = [save_clip(tmp_path, number) for number in range(5)]
    clips += [save_clip(tmp_path, number, height=48, width=32) for number in range(5, 8)]
    write_records(tmp_path / "manifest.jsonl", clips)
    return PortraitDataset(tmp_path / "manifest.jsonl")


def test_a_moved_corpus_can_be_read(dataset: PortraitDataset, tmp_path: Path) -> None:
    sample = dataset[3]
    assert len(dataset) == 8 and sample.record.clip == "clip003"
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    tmp_path.rename(moved)
    again = PortraitDataset(moved / "manifest.jsonl")[3]
    assert torch.equal(again.features.latents, sample.features.latents)


def test_missing_and_mismatched_files_are_named(tmp_path: Path) -> None:
    clips = [save_clip(tmp_path, 0), save_clip(tmp_path, 1, frames=13)]
    write_records(tmp_path / "manifest.jsonl", [clips[0], replace(clips[1], frames=9)])
    with raises_input_error(ErrorCode.conflict, "frames", (13, 4, 6)):
        PortraitDataset(tmp_path / "manifest.jsonl")[1]
    write_records(tmp_path / "manifest.jsonl", [replace(clips[0], people=2)])
    with raises_input_error(ErrorCode.conflict, "people", 1):
        PortraitDataset(tmp_path / "manifest.jsonl")[0]
    (tmp_path / clips[0].features).unlink()
    with raises_input_error(ErrorCode.missing_file, "features", str(tmp_path / clips[0].features)):
        PortraitDataset(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize("alignment", list(AudioAlignment))
def test_a_batch_has_the_inputs_of_the_model(dataset: PortraitDataset, alignment: AudioAlignment) -> None:
    samples = [dataset[0], dataset[1], dataset[2]]
    batch = PortraitCollator(CollateConfig(alignment=alignment, max_text_tokens=7))(samples)
    conditions = batch.conditions
    tokens = samples[0].features.audio.shape[0]
    windows = (1, tokens) if alignment is AudioAlignment.clip else (3, tokens_per_window(0.34))
    assert batch.latents.shape == (3, 16, 3, 4, 6) and batch.lip_mask.shape == (3, 1, 3, 4, 6)
    assert conditions.prompt_embeds.shape == (3, 7, 12) and conditions.image_embeds.shape == (3, 17, 10)
    assert conditions.image_latents.shape == (3, 20, 3, 4, 6) and conditions.face_embeds.shape == (3, 1, 512)
    assert conditions.audio_embeds.shape == (3, *windows, 24) and conditions.audio_mask.shape == (3, *windows)
    assert (
        conditions.motion_intensity.tolist() == [[0.25, 0.75]] * 3
        and conditions.condition_scale.tolist() == [[1, 1]] * 3
    )
    assert all(value.is_floating_point() or value.dtype == torch.bool for value in conditions if value is not None)
    for row, sample in enumerate(samples):
        features = sample.features
        assert torch.equal(batch.latents[row], features.latents.float())
        assert torch.equal(conditions.image_latents[row, 4:], features.first_frame_latents.float())
        assert conditions.image_latents[row, :4, 0].eq(1).all() and conditions.image_latents[row, :4, 1:].eq(0).all()
        assert torch.equal(batch.lip_mask[row, 0], features.lip_mask_causal.float())
        length = min(7, len(features.text))
        assert torch.equal(conditions.prompt_embeds[row, :length], features.text[:length].float())
        assert conditions.prompt_embeds[row, length:].eq(0).all()
        if alignment is AudioAlignment.clip:
            assert torch.equal(conditions.audio_embeds[row, 0], features.audio.float()) and conditions.audio_mask.all()


def test_the_papers_mask_projection_can_be_selected(dataset: PortraitDataset) -> None:
    batch = PortraitCollator(CollateConfig(lip_mask_projection=MaskProjection.trilinear))([dataset[0]])
    assert torch.equal(batch.lip_mask[0, 0], dataset[0].features.lip_mask_trilinear.float())


def test_clips_of_different_shapes_are_refused(dataset: PortraitDataset) -> None:
    with raises_input_error(ErrorCode.shape_mismatch, "first_frame_latents", "clip005"):
        PortraitCollator(CollateConfig())([dataset[0], dataset[5]])


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_text_tokens", 0), ("max_text_tokens", 4097), ("audio_window_seconds", 0.01), ("audio_window_seconds", 11.0)],
)
def test_invalid_collate_options(field: str, value: float) -> None:
    with raises_input_error(ErrorCode.out_of_range, field, value):
        CollateConfig(**{field: value}).validate()  # type: ignore[arg-type]


RECORDS = [record(number) for number in range(10)] + [record(number, height=48, width=32) for number in range(10, 17)]


def test_clips_of_one_and_of_two_people_are_not_mixed() -> None:
    records = [replace(record(number), people=1 + number % 2) for number in range(9)]
    sampler = BucketBatchSampler(records, 2, seed=0)
    assert len(sampler) == 2 + 2 and all(len({index % 2 for index in batch}) == 1 for batch in sampler)


def test_clips_of_different_rates_are_trained_in_batches_of_their_own() -> None:
    records = [record(number, fps=25.0 if number % 2 else 30.0) for number in range(8)]
    found = list(BucketBatchSampler(records, 2, seed=0))
    assert len(found) == 4 and all(len({records[index].fps for index in batch}) == 1 for batch in found)


def batches(sampler: BucketBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_position(epoch)
    return list(sampler)


def test_batches_hold_one_bucket_and_every_clip_equally_often() -> None:
    sampler = BucketBatchSampler(RECORDS, 3, seed=0)
    found = [batches(sampler, epoch) for epoch in range(3)]
    assert [len(epoch) for epoch in found] == [3 + 2, 3 + 2, 4 + 3], "17 clips: the remainders wait"
    every = [batch for epoch in found for batch in epoch]
    assert all(len(batch) == 3 and len({index < 10 for index in batch}) == 1 for batch in every)
    assert Counter(index for batch in every for index in batch) == dict.fromkeys(range(17), 3)


def test_a_clip_of_a_small_bucket_is_not_repeated_more_often_than_others() -> None:
    """The last clip is the only one of its size, and a global batch has 64 clips."""
    records = [record(number) for number in range(128)] + [record(128, height=48, width=32)]
    sampler = BucketBatchSampler(records, 64, seed=0)
    lengths = {epoch: len(batches(sampler, epoch)) for epoch in (0, 1, 62, 63, 64, 127)}
    assert lengths == {0: 2, 1: 2, 62: 2, 63: 3, 64: 2, 127: 3}, "once in 64 epochs"
    assert [128] * 64 in batches(sampler, 63)


def test_a_step_is_found_in_epochs_of_different_length() -> None:
    for size in (1, 3, 7, 40):  # with 40, epochs without a batch
        sampler = BucketBatchSampler(RECORDS, size, seed=0)
        steps = [(epoch, batch) for epoch in range(60) for batch in range(len(batches(sampler, epoch)))]
        assert [sampler.position_of(step) for step in range(len(steps))] == steps


def test_without_remainders_the_order_is_that_of_earlier_releases() -> None:
    generator = torch.Generator().manual_seed(5 * 1_000_003 + 2)
    order = torch.randperm(8, generator=generator).tolist()
    expected = [order[start : start + 2] for start in range(0, 8, 2)]
    expected = [expected[index] for index in torch.randperm(4, generator=generator).tolist()]
    assert batches(BucketBatchSampler(RECORDS[:8], 2, seed=5), 2) == expected


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    one, other = BucketBatchSampler(RECORDS, 3, seed=0), BucketBatchSampler(RECORDS, 3, seed=0)
    assert batches(one, 1) == batches(other, 1) != batches(one, 0)
    assert batches(BucketBatchSampler(RECORDS, 3, seed=1), 0) != batches(one, 0)


def test_ranks_take_disjoint_parts_of_the_same_bucket() -> None:
    ranks = [batches(BucketBatchSampler(RECORDS, 2, seed=0, rank=rank, world_size=2), 4) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 2 + 1
    for first, second in zip(*ranks, strict=True):
        assert len({index < 10 for index in first + second}) == 1
    assert batches(BucketBatchSampler(RECORDS, 4, seed=0), 4) == [a + b for a, b in zip(*ranks, strict=True)]


def test_an_epoch_is_resumed_where_it_stopped() -> None:
    sampler = BucketBatchSampler(RECORDS, 2, seed=0)
    complete = batches(sampler, 2)
    sampler.set_position(2, 3)
    assert list(sampler) == complete[3:]
    assert list(sampler) == complete, "the next pass is complete again"


WHISPER = AudioEncoderSpec("whisper", 24, TokenTiming(50.0, 0.0), (0.5,))


def with_encoder(folder: Path, number: int, spec: AudioEncoderSpec | None) -> ClipRecord:
    clip = save_clip(folder, number)
    save_features(replace(random_features(number), audio_encoder=spec), folder / clip.features, "abc")
    return clip


def test_manifests_of_different_audio_encoders_are_refused(tmp_path: Path) -> None:
    for name, spec in (("first", WHISPER), ("second", None)):
        write_records(tmp_path / name / "manifest.jsonl", [with_encoder(tmp_path / name, 0, spec)])
    paths = [tmp_path / name / "manifest.jsonl" for name in ("first", "second")]
    assert PortraitDataset(paths[0]).audio_encoder == WHISPER
    assert PortraitDataset(paths[1]).audio_encoder == AudioEncoderSpec("wav2vec2", 24)
    with raises_input_error(ErrorCode.conflict, "audio_encoder", "wav2vec2"):
        PortraitDataset(*paths)


def test_a_clip_of_another_audio_encoder_is_refused_and_a_damaged_one_not_asked(tmp_path: Path) -> None:
    specs = (WHISPER, WHISPER, replace(WHISPER, weights=(0.6,)))
    clips = [with_encoder(tmp_path, number, spec) for number, spec in enumerate(specs)]
    write_records(tmp_path / "manifest.jsonl", clips)
    (tmp_path / clips[0].features).write_bytes(b"damaged")
    dataset = PortraitDataset(tmp_path / "manifest.jsonl")
    assert dataset.audio_encoder == WHISPER == dataset[1].features.audio_encoder
    with raises_input_error(ErrorCode.conflict, "audio_encoder", (0.6,)):
        dataset[2]


def test_windows_are_cut_at_the_times_of_the_encoders_tokens(tmp_path: Path) -> None:
    """At 25 fps, the middle of latent frame 1 is 0.12 s: nearest to token 5 of wav2vec2 and to token 6 of Whisper."""
    middles = []
    for number, spec in enumerate((None, WHISPER)):
        folder = tmp_path / str(number)
        write_records(folder / "manifest.jsonl", [with_encoder(folder, 0, spec)])
        sample = PortraitDataset(folder / "manifest.jsonl")[0]
        numbers = torch.arange(len(sample.features.audio), dtype=torch.float32)[:, None].expand(-1, 24)
        sample = sample._replace(features=replace(sample.features, audio=numbers))
        config = CollateConfig(alignment=AudioAlignment.frame, audio_window_seconds=0.1)
        middles.append(int(PortraitCollator(config)([sample]).conditions.audio_embeds[0, 1, 2, 0]))
    frame = (1 + 5) / 2 / 25
    assert middles == [round((frame - 0.0125) * 50 + 1e-9), round(frame * 50)] == [5, 6]
