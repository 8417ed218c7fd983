"""The whole preparation: features of good videos, reasons for bad ones, and the same result after interruptions."""

import json
import random
import runpy
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fantasytalking.common.dtype import Dtype
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.collate import AudioAlignment, CollateConfig, PortraitCollator
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.manifest import (
    ClipRecord,
    ClipRejected,
    Rejection,
    RejectionReason,
    read_manifest,
    read_rejections,
)
from fantasytalking.data.prepare.clip import prepare_clip, read_caption
from fantasytalking.data.prepare.clip_audio import clip_loudness_db
from fantasytalking.data.prepare.clip_measures import ClipMeasures, measure_visibility
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.encode import FeatureEncoders
from fantasytalking.data.prepare.people import select_people
from fantasytalking.data.prepare.plan import RelativeCrop, SceneClip, VideoFile
from fantasytalking.encoders.wav2vec import token_count, token_times
from fantasytalking.latent_geometry import WAN21_GEOMETRY, LatentGeometry
from fantasytalking.media import read_image
from fantasytalking.media.resolution import ResizeMode
from tests.data.preparation_runs import (
    FORK_SERVER,
    file_hashes,
    measure_memory,
    run_in_process,
    small_config,
    start_preparation,
    wait_for_processes,
)
from tests.data.sample_videos import write_bad_videos, write_repeated
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import start_fork_server
from tests.helpers.launching import accelerate_launch, cpu_environment
from tests.helpers.paths import ROOT

SCRIPT = ROOT / "scripts" / "prepare_data.py"
SHARES = ROOT / "tests" / "helpers" / "record_world_size.py"


@dataclass
class Corpus:
    videos: Path
    output: Path
    config: PreparationConfig
    records: list[ClipRecord]
    rejections: list[Rejection]
    expected: dict[str, str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, good: Path, components: Path) -> Corpus:
    videos, output = tmp_path_factory.mktemp("all"), tmp_path_factory.mktemp("corpus") / "out"
    (videos / "more").mkdir()
    for path in good.rglob("*.*"):
        (videos / path.relative_to(good)).write_bytes(path.read_bytes())
    expected = write_bad_videos(videos)
    config = small_config(components)
    return Corpus(videos, output, config, *run_in_process(videos, output, config), expected)


def test_good_videos_give_one_clip_per_scene(corpus: Corpus) -> None:
    assert [(record.video, record.start) for record in corpus.records] == [
        ("more/cut.mp4", 0.0),
        ("more/cut.mp4", 1.2),
        ("talk.mp4", 0.0),
    ]
    assert read_manifest(corpus.output / "manifest.jsonl") == corpus.records
    for record in corpus.records:
        assert (record.fps, record.frames, record.width, record.height) == (25.0, 17, 64, 64)
        assert record.duration == pytest.approx(17 / 25) and 20 < record.face_size < 60
        assert record.expression_measure > 0 and record.body_measure > 0


def test_every_bad_video_is_rejected_with_its_reason(corpus: Corpus) -> None:
    rejections = read_rejections(corpus.output / "rejected.jsonl")
    assert rejections == sorted(corpus.rejections, key=lambda line: (line.video, line.start))
    reasons = {video: {line.reason.value for line in rejections if line.video == video} for video in corpus.expected}
    assert {video: reason in reasons[video] for video, reason in corpus.expected.items()} == dict.fromkeys(
        corpus.expected, True
    )
    assert {line.video for line in rejections} == set(corpus.expected), "no good video is rejected"
    assert str(corpus.videos) not in (corpus.output / "rejected.jsonl").read_text(), "relative paths only"


def test_features_equal_the_encoders_outputs(corpus: Corpus) -> None:
    sample = PortraitDataset(corpus.output / "manifest.jsonl")[2]
    encoders = FeatureEncoders.load(corpus.config, torch.device("cpu"))
    path = corpus.videos / sample.record.video
    clip = prepare_clip(SceneClip(VideoFile(path, path.name, path.stat().st_size), 0.0, None), corpus.config)
    features = sample.features
    video = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None]
    assert torch.equal(features.latents, encoders.video.encode(video)[0].half())
    assert torch.equal(features.first_frame_latents, encoders.video.encode_first_frame(video[:, :, 0], 17)[0].half())
    assert torch.equal(features.text, encoders.text.encode(corpus.config.prompt).half())
    assert torch.equal(features.audio, encoders.audio.encode(clip.waveform).half())
    assert features.latents.shape == (16, 5, 8, 8) and features.face.shape == (1, 512)
    assert features.frame_times.tolist() == pytest.approx([number / 25 for number in range(17)])
    lips = np.argwhere(clip.lip_mask[0]).mean(axis=0) / 8
    cells = torch.nonzero(features.lip_mask_causal[0] > 0.3).double().mean(dim=0)
    assert np.allclose(cells + 0.5, lips, atol=1), "the latent mask covers the mouth"
    assert 0 < features.lip_mask_causal.mean() < 0.3 and 0 < features.lip_mask_trilinear.mean() < 0.3


def test_a_crop_enlarges_the_face(corpus: Corpus) -> None:
    path = corpus.videos / "talk.mp4"
    file = VideoFile(path, path.name, path.stat().st_size)
    whole = prepare_clip(SceneClip(file, 0.2, None), corpus.config)
    closer = prepare_clip(SceneClip(file, 0.2, RelativeCrop(0.1, 0.1, 0.8, 0.8)), corpus.config)
    assert closer.frames.shape == whole.frames.shape
    assert closer.face_size == pytest.approx(whole.face_size / 0.8, rel=0.05)
    assert np.array_equal(closer.waveform, whole.waveform) and closer.expression_measure == pytest.approx(
        whole.expression_measure, rel=0.3
    )


@pytest.mark.parametrize(
    ("limits", "crop", "reason"),
    [
        ({"min_face_confidence": 0.99}, None, RejectionReason.LOW_CONFIDENCE),
        ({"min_face_size": 0.8}, None, RejectionReason.FACE_TOO_SMALL),
        ({}, RelativeCrop(0.1, 0.0, 0.8, 0.7), RejectionReason.FACE_CUT_OFF),
    ],
)
def test_unusable_faces_are_rejected(
    corpus: Corpus, components: Path, limits: dict, crop: RelativeCrop | None, reason: RejectionReason
) -> None:
    path = corpus.videos / "talk.mp4"
    clip = SceneClip(VideoFile(path, path.name, path.stat().st_size), 0.0, crop)
    with pytest.raises(ClipRejected) as refused:
        prepare_clip(clip, small_config(components, **limits))
    assert refused.value.reason is reason


def test_a_face_must_be_visible_in_the_first_frame(corpus: Corpus) -> None:
    path = corpus.videos / "talk.mp4"
    clip = SceneClip(VideoFile(path, path.name, path.stat().st_size), 0.0, None)
    prepared = prepare_clip(clip, corpus.config)
    (track,) = prepared.tracks
    assert select_people([track], prepared.waveform, corpus.config) == [track]
    present = track.present.copy()
    present[0] = False
    with pytest.raises(ClipRejected) as refused:
        select_people([replace(track, present=present)], prepared.waveform, corpus.config)
    assert refused.value.reason is RejectionReason.FACE_LOST
    present[[0, 5, 6, 7]] = True, False, False, False
    with pytest.raises(ClipRejected) as refused:
        ClipMeasures(corpus.config).add(measure_visibility([replace(track, present=present)]))
    assert refused.value.reason is RejectionReason.FACE_LOST


def test_a_malformed_caption_rejects_the_clip(corpus: Corpus, tmp_path: Path) -> None:
    clip = SceneClip(VideoFile(tmp_path / "a.mp4", "a.mp4", 1), 0.0, None)
    assert read_caption(clip, "default") == "default"
    for content in (b"\xff\xff", b"a" * 20_000):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(ClipRejected) as refused:
            read_caption(clip, "default")
        assert refused.value.reason is RejectionReason.UNREADABLE


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfA man talks.\r\n", "A man talks.\r\n".encode("utf-16")])
def test_a_caption_is_read_as_editors_save_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    clip = SceneClip(VideoFile(tmp_path / "a.mp4", "a.mp4", 1), 0.0, None)
    assert read_caption(clip, "default") == "A man talks."


def test_the_text_file_of_a_video_is_its_caption(corpus: Corpus) -> None:
    dataset = PortraitDataset(corpus.output / "manifest.jsonl")
    encoder = FeatureEncoders.load(corpus.config, torch.device("cpu")).text
    assert torch.equal(dataset[0].features.text, encoder.encode("Somebody else is talking.").half())


def test_prepared_clips_make_batches(corpus: Corpus) -> None:
    dataset = PortraitDataset(corpus.output / "manifest.jsonl")
    batch = PortraitCollator(CollateConfig(alignment=AudioAlignment.frame, max_text_tokens=40))(
        [dataset[0], dataset[2]]
    )
    assert batch.latents.shape == (2, 16, 5, 8, 8) and batch.conditions.audio_embeds.shape[:2] == (2, 5)
    assert all(value.isfinite().all() for value in batch.conditions if value is not None)


def test_the_contact_sheet_shows_every_clip(corpus: Corpus) -> None:
    sheet = read_image(corpus.output / "contact_sheet.png")
    assert sheet.shape[0] > 400 and sheet.shape[1] > 1500 and sheet.std() > 20


def test_a_second_run_does_nothing_and_other_settings_are_refused(corpus: Corpus) -> None:
    before = {path: path.stat().st_mtime_ns for path in (corpus.output / "features").rglob("*") if path.is_file()}
    digest = file_hashes(corpus.output)
    run_in_process(corpus.videos, corpus.output, corpus.config)
    assert file_hashes(corpus.output) == digest
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(InputError, match="other settings"):
        run_in_process(
            corpus.videos, corpus.output, small_config(Path(corpus.config.base), frames=21, clip_stride=1000)
        )


def test_a_run_cannot_be_resumed_with_other_encoders(corpus: Corpus, tmp_path: Path) -> None:
    components = tmp_path / "components"
    shutil.copytree(corpus.config.base, components)
    config = small_config(components, contact_sheet_clips=0)
    (tmp_path / "in").mkdir()
    shutil.copy(corpus.videos / "talk.mp4", tmp_path / "in")
    run_in_process(tmp_path / "in", tmp_path / "out", config)
    (weights,) = (components / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    save_file({name: value + 0.1 for name, value in tensors.items()}, weights)
    with pytest.raises(InputError, match="another vae"):
        run_in_process(tmp_path / "in", tmp_path / "out", config)


def test_the_normalizer_of_another_corpus_can_be_used(corpus: Corpus, components: Path, tmp_path: Path) -> None:
    constants = {"expression_low": 1e-5, "expression_high": 1.0, "body_low": 1e-5, "body_high": 1.0}
    (tmp_path / "other.json").write_text(json.dumps(constants))
    # The clips are done, and the folder can be moved: only the values in the manifest change.
    shutil.copytree(corpus.output, tmp_path / "moved")
    config = small_config(components, motion_normalizer=str(tmp_path / "other.json"), contact_sheet_clips=0)
    records, _ = run_in_process(corpus.videos, tmp_path / "moved", config)
    assert [record.expression for record in records] == pytest.approx(
        [(np.log10(record.expression_measure) + 5) / 5 for record in records], abs=1e-5
    )
    assert json.loads((tmp_path / "moved" / "motion_normaliser.json").read_text()) == constants


def kill_and_finish(
    videos: Path, output: Path, config: PreparationConfig, kills: int, seconds: float, seed: int
) -> None:
    """Kills the preparation `kills` times at random moments within `seconds`, then runs it to the end."""
    chance = random.Random(seed)
    for _ in range(kills):
        process = start_preparation(videos, output, config)
        time.sleep(chance.uniform(0.05, 1.0) * seconds / kills)
        process.kill()
        process.join()
        assert process.exitcode == -9, "killed before it finished"
    wait_for_processes(start_preparation(videos, output, config))


@dataclass
class Calm:
    """The good videos, prepared by one process without interruption."""

    output: Path
    config: PreparationConfig
    seconds: float


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, good: Path, components: Path) -> Calm:
    output, config = tmp_path_factory.mktemp("calm") / "out", small_config(components, contact_sheet_clips=1)
    start_fork_server()
    begin = time.monotonic()
    wait_for_processes(start_preparation(good, output, config))
    return Calm(output, config, time.monotonic() - begin)


@pytest.mark.slow
def test_killed_three_times_the_result_is_the_same(good: Path, calm: Calm, tmp_path: Path) -> None:
    kill_and_finish(good, tmp_path / "killed", calm.config, 3, calm.seconds, seed=1)
    assert file_hashes(tmp_path / "killed") == file_hashes(calm.output)


def test_two_processes_give_the_same_bytes(good: Path, calm: Calm, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for rank in range(2)
    ]
    wait_for_processes(*[start_preparation(good, tmp_path / "two", calm.config, rank) for rank in ranks])
    assert file_hashes(tmp_path / "two") == file_hashes(calm.output)


def call_script(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(str(exit_info.value.code))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["base=nowhere"], "the folder 'nowhere' does not exist"),
        (["frames=18"], "18"),
        (["buckets=[65x64]"], "buckets contains 65x64"),
        (["min_face_confidance=0.5"], "did you mean 'min_face_confidence'?"),
        (["device=cuda"] if not torch.cuda.is_available() else ["device=tpu"], "device is"),
        (["time_ranges=nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
        (["ranges=nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    components: Path,
    tmp_path: Path,
    settings: list[str],
    message: str,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    preset = ["--config", ROOT / "configs" / "nano" / "data.yaml", f"base={components}"]
    code = call_script(monkeypatch, "--input", tmp_path / "in", "--output", tmp_path / "out", *preset, *settings)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert code == 2 and len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("fps", 0, ErrorCode.out_of_range),
        ("frames", 5, ErrorCode.out_of_range),
        ("clip_stride", 0, ErrorCode.out_of_range),
        ("max_people", 9, ErrorCode.out_of_range),
        ("max_face_blur", 0, ErrorCode.out_of_range),
        ("min_face_movement", 1, ErrorCode.out_of_range),
        ("min_face_pixels", 7, ErrorCode.out_of_range),
        ("scene_cut_threshold", 1.1, ErrorCode.out_of_range),
        ("min_fps_ratio", -0.1, ErrorCode.out_of_range),
        ("max_upscale", 0, ErrorCode.out_of_range),
        ("min_loudness_db", 1, ErrorCode.out_of_range),
        ("min_face_confidence", 1.1, ErrorCode.out_of_range),
        ("min_visible_fraction", 1.1, ErrorCode.out_of_range),
        ("min_face_size", -1, ErrorCode.out_of_range),
        ("resize_mode", ResizeMode.fit, ErrorCode.invalid_choice),
        ("num_threads", 0, ErrorCode.out_of_range),
        ("contact_sheet_clips", 201, ErrorCode.out_of_range),
        ("buckets", [], ErrorCode.invalid_type),
        ("buckets", ["64 x 64"], ErrorCode.invalid_type),
        ("device", "tpu", ErrorCode.invalid_choice),
    ],
)
def test_values_out_of_range_are_named(field: str, value: object, code: ErrorCode) -> None:
    with raises_input_error(code, field, value):
        PreparationConfig(base="somewhere", **{field: value}).validate()  # type: ignore[arg-type]


def test_clips_must_fit_the_latents_and_tokens_of_the_base() -> None:
    for bucket in ("64x8", "8192x64"):
        with raises_input_error(ErrorCode.out_of_range, "buckets", bucket):
            PreparationConfig(base="somewhere", buckets=["64x64", bucket]).validate()
    config = PreparationConfig(base="somewhere", frames=81, buckets=["64x64", "48x64"])
    config.check_geometry(WAN21_GEOMETRY)
    with raises_input_error(ErrorCode.out_of_range, "buckets", "48x64"):
        config.check_geometry(LatentGeometry(spatial_stride=16, temporal_stride=4))
    with raises_input_error(ErrorCode.out_of_range, "frames", 81):
        config.check_geometry(LatentGeometry(spatial_stride=8, temporal_stride=3))


@pytest.mark.parametrize(("field", "value", "refused"), [("frames", 30, 30), ("buckets", ["64x64", "72x64"], "72x64")])
def test_clips_that_do_not_fit_are_refused_before_a_network_is_loaded(
    tmp_path: Path, components: Path, field: str, value: object, refused: object
) -> None:
    (tmp_path / "vae").mkdir()
    shutil.copy(components / "vae" / "config.json", tmp_path / "vae")  # no weights, and no other encoder
    with raises_input_error(ErrorCode.out_of_range, field, refused):
        FeatureEncoders.load(small_config(tmp_path, **{field: value}), torch.device("cpu"))


def test_fingerprints_are_those_of_earlier_releases() -> None:
    """They are computed from the earlier names of the settings, so that begun corpora can be resumed."""
    assert PreparationConfig(base="X").fingerprint() == "a222be57524742e3"
    several = PreparationConfig(base="X", expression_encoder="e", max_people=2)
    assert several.fingerprint() == "ddd3c51deaecd818"
    everything = PreparationConfig(
        base="X",
        audio_encoder="a",
        face_encoder="f.onnx",
        expression_encoder="e",
        max_people=3,
        filter_people=True,
        fps=12.5,
        frames=33,
        clip_stride=16,
        buckets=["256x256", "512x288"],
        resize_mode=ResizeMode.letterbox,
        time_ranges="r.jsonl",
        scene_cut_threshold=0.4,
        min_loudness_db=-40.0,
        dtype=Dtype.bfloat16,
        motion_normalizer="n.json",
        num_threads=3,
    )
    assert everything.fingerprint_with_limits() == "cc42803aaa7546ea"
    assert everything.fingerprint() == replace(everything, filter_people=False, min_loudness_db=-50.0).fingerprint()


def test_a_folder_without_a_usable_clip_reports_the_reasons(components: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"no video")
    with raises_input_error(ErrorCode.unreadable_media, "--input", "1 unreadable"):
        run_in_process(tmp_path / "in", tmp_path / "out", small_config(components))
    assert len(read_rejections(tmp_path / "out" / "rejected.jsonl")) == 1


def test_loudness_is_in_decibels_of_full_scale() -> None:
    time_line = np.arange(32000) / 16000
    tone = (0.1 * np.sin(2 * np.pi * 200 * time_line)).astype(np.float32)
    assert clip_loudness_db(tone) == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.1)
    assert clip_loudness_db(tone + np.float32(0.3)) == pytest.approx(clip_loudness_db(tone), abs=0.1), (
        "an offset is not audible"
    )
    tone[3200:] = 0
    assert clip_loudness_db(tone) > -25, "a short word is not silence"
    assert clip_loudness_db(np.zeros(100, np.float32)) == pytest.approx(-120)


@pytest.mark.slow
def test_killed_ten_times_the_result_is_the_same(good: Path, components: Path, tmp_path: Path) -> None:
    config = small_config(components, clip_stride=6)
    begin = time.monotonic()
    wait_for_processes(start_preparation(good, tmp_path / "calm", config))
    kill_and_finish(good, tmp_path / "killed", config, 10, time.monotonic() - begin, seed=2)
    assert file_hashes(tmp_path / "killed") == file_hashes(tmp_path / "calm")


@pytest.mark.slow
def test_accelerate_launch_gives_the_bytes_of_one_process(good: Path, components: Path, tmp_path: Path) -> None:
    launch = [*accelerate_launch(2), str(SHARES), str(tmp_path / "shares")]
    for number, command in enumerate(([sys.executable], launch)):
        arguments = ["--input", good, "--output", tmp_path / str(number), "--config", ROOT / "configs/nano/data.yaml"]
        settings = [f"base={components}", "buckets=[64x64]", "frames=17"]
        done = subprocess.run(
            [*command, str(SCRIPT), *map(str, arguments), *settings],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=cpu_environment(),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("clips in") == 1
    assert [(tmp_path / f"shares{rank}").read_text() for rank in range(2)] == ["2", "2"]
    assert file_hashes(tmp_path / "0") == file_hashes(tmp_path / "1")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_video_of_two_hours_takes_no_more_memory(good: Path, components: Path, tmp_path: Path) -> None:
    peaks = {}
    # Two clips each: MediaPipe's and torch's own memory settles over the first clips.
    for name, seconds, stride in (("short", 110, 1_500), ("long", 7190, 90_000)):
        config = small_config(components, clip_stride=stride, contact_sheet_clips=0)
        (tmp_path / name).mkdir()
        write_repeated(good / "talk.mp4", tmp_path / name / "video.mp4", seconds)
        answer = FORK_SERVER.SimpleQueue()
        process = FORK_SERVER.Process(
            target=measure_memory, args=(tmp_path / name, tmp_path / f"{name}-out", config, answer)
        )
        process.start()
        process.join()
        peaks[name] = answer.get()
    for name, second in (("short", 60.0), ("long", 3600.0)):
        records = read_manifest(tmp_path / f"{name}-out" / "manifest.jsonl")
        assert [record.start for record in records] == [0.0, second]
    assert peaks["long"] < peaks["short"] + 50, peaks


USABLE = {
    "generated_audio_guidance_10pct.mp4",
    "generated_audio_guidance_70pct.mp4",
    "hdtf_style_256_25fps.mp4",
    "interview_vertical_25fps.mp4",
    "talk_29.97fps.mp4",
    "talk_variable_24.6fps.mp4",
    "talk_variable_24.7fps.mp4",
}


@pytest.mark.slow
@pytest.mark.parametrize("fps", [16.0, 23.0, 25.0])
def test_real_media_pass_through(real_media: Path, components: Path, tmp_path: Path, fps: float) -> None:
    frames = 4 * int(2.5 * fps / 4) + 1
    config = small_config(components, fps=fps, frames=frames)
    records, rejections = run_in_process(real_media, tmp_path / "out", config)
    assert {Path(record.video).name for record in records} == USABLE
    assert {Path(line.video).name: line.reason.value for line in rejections} == {
        "no_sound_25fps.mp4": "no_sound",
        "two_people_no_sound_23fps.mp4": "no_sound",
    }
    dataset = PortraitDataset(tmp_path / "out" / "manifest.jsonl")
    for index in range(len(dataset)):
        features, frame = dataset[index].features, 1 / fps
        tokens = len(features.audio)
        assert tokens == token_count(round(frames / fps * 16000))
        audio_span = token_times(tokens)[[0, -1]] + np.array([-0.0125, 0.0125])
        video_end = features.frame_times[-1].item() + frame
        assert audio_span[0] == 0 and abs(audio_span[1] - video_end) < frame, "audio and video are equally long"
