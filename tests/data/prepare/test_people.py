"""Clips of several people: everyone is found, in one order, with their speech and expressions."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.dataset import PortraitDataset, Sample
from fantasytalking.data.features import ClipFeatures
from fantasytalking.data.manifest import ClipRecord, ClipRejected, RejectionReason
from fantasytalking.data.prepare.clip import PreparedClip, prepare_clip
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.encode import FeatureEncoders
from fantasytalking.data.prepare.people import select_people
from fantasytalking.data.prepare.plan import SceneClip, VideoFile
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.perception.face_crop import five_points
from fantasytalking.perception.lip_mask import lip_mask
from fantasytalking.portrait_world.corpus.group_clip import GroupClipPlan, SpeakingRole, write_group_clip
from tests.data.preparation_runs import run_in_process, small_config
from tests.helpers.errors import raises_input_error
from tests.helpers.fantasy_portrait_networks import save_fantasy_portrait

WIDTH, HEIGHT, SCALE = 256, 128, 0.5
PLAN = GroupClipPlan(20, 3, (SpeakingRole(31, "Mow."), SpeakingRole(4, "")), seed=1, expression=0.7, body=0.4)


@dataclass
class Pair:
    """A prepared video of two people; the left one speaks."""

    videos: Path
    config: PreparationConfig
    records: list[ClipRecord]
    sample: Sample
    known: dict
    clip: SceneClip
    prepared: PreparedClip

    @property
    def features(self) -> ClipFeatures:
        return self.sample.features


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, components: Path, driver: Path) -> Pair:
    videos, output = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("pairs") / "out"
    write_group_clip(PLAN, (WIDTH, HEIGHT), 1.2, videos / PLAN.name)
    settings = {"max_people": 2, "expression_encoder": str(driver), "buckets": ["128x64"], "contact_sheet_clips": 1}
    config = small_config(components, **settings)
    records, _ = run_in_process(videos, output, config)
    path = videos / PLAN.name / "video.mp4"
    clip = SceneClip(VideoFile(path, f"{PLAN.name}/video.mp4", path.stat().st_size), 0.0, None)
    known = json.loads((path.parent / "truth.json").read_text())
    sample = PortraitDataset(output / "manifest.jsonl")[0]
    return Pair(videos, config, records, sample, known, clip, prepare_clip(clip, config))


def test_both_people_are_in_the_features(pair: Pair) -> None:
    assert [record.people for record in pair.records] == [2]
    features = pair.features
    assert features.face.shape == (2, 512) and features.latents.shape == (16, 5, 8, 16)
    assert features.expression is not None and features.expression.shape == (2, 17, 36)
    assert features.expression_present is not None and features.expression_present.float().mean() > 0.9
    assert not torch.allclose(features.expression[0], features.expression[1], atol=0.01)
    assert float(features.face[0] @ features.face[1]) < 0.9999, "each has another face"


def test_a_face_that_the_released_detector_does_not_detect_is_rejected(pair: Pair, tmp_path: Path) -> None:
    save_fantasy_portrait(tmp_path / "blind", brightness=0.3)
    config = replace(pair.config, expression_encoder=str(tmp_path / "blind"))
    with raises_input_error(ErrorCode.unreadable_media, "--input", "1 face_lost"):
        run_in_process(pair.videos, tmp_path / "out", config)
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert "networks detect no face" in line


def test_boxes_match_the_faces_from_left_to_right(pair: Pair) -> None:
    boxes = pair.features.boxes
    assert boxes is not None and boxes.shape == (2, 17, 4)
    for person, own in zip(pair.known["people"], boxes.numpy(), strict=True):
        true = np.array([frame["box"] for frame in person["frames"][:17]]) * SCALE
        middle, true_middle = (own[:, :2] + own[:, 2:]) / 2, (true[:, :2] + true[:, 2:]) / 2
        size = true[:, 2:] - true[:, :2]
        assert (np.abs(middle - true_middle) < 0.25 * size).all()
        assert (np.abs((own[:, 2:] - own[:, :2]) / size - 1) < 0.4).all()


def test_expressions_are_those_of_the_encoder(pair: Pair, driver: Path) -> None:
    track = pair.prepared.tracks[1]
    points = np.where(track.present[:, None, None], five_points(track.landmarks), np.nan)
    found = ExpressionEncoder.from_pretrained(driver).encode(pair.prepared.frames, points)
    assert pair.features.expression is not None
    assert torch.equal(pair.features.expression[1], found.features.half())


def test_each_person_has_their_own_speech(pair: Pair) -> None:
    speakers, prepared = pair.features.speakers, pair.prepared
    assert speakers is not None and speakers.shape == (2, *pair.features.audio.shape)
    assert prepared.speaker_waveforms is not None
    assert np.abs(prepared.speaker_waveforms[0]).max() > 0.05 and np.abs(prepared.speaker_waveforms[1]).max() == 0
    assert all(
        len(own) == len(prepared.waveform) == round(17 / 25 * AUDIO_SAMPLE_RATE) for own in prepared.speaker_waveforms
    )
    audio = FeatureEncoders.load(pair.config, torch.device("cpu")).audio
    for tokens, own in zip(speakers, prepared.speaker_waveforms, strict=True):
        assert torch.equal(tokens, audio.encode(own).half())


def test_the_lip_mask_contains_both_mouths(pair: Pair) -> None:
    alone = [lip_mask(track.landmarks, 64, 128) for track in pair.prepared.tracks]
    assert all(mask.any() for mask in alone) and not (alone[0] & alone[1]).any()
    assert np.array_equal(pair.prepared.lip_mask, alone[0] | alone[1])


def test_people_are_ordered_as_in_the_frame(pair: Pair) -> None:
    left, right = pair.prepared.tracks
    chosen = select_people([right, left], pair.prepared.waveform, pair.config)
    assert chosen[0] is left and chosen[1] is right


def test_too_many_people_and_people_who_appear_later_are_rejected(pair: Pair) -> None:
    tracks, samples = list(pair.prepared.tracks), pair.prepared.waveform
    with pytest.raises(ClipRejected) as refused:
        select_people([*tracks, tracks[0]], samples, pair.config)
    assert refused.value.reason is RejectionReason.MULTIPLE_PEOPLE and "at most 2" in refused.value.detail
    present = tracks[1].present.copy()
    present[0] = False
    with pytest.raises(ClipRejected) as refused:
        select_people([tracks[0], replace(tracks[1], present=present)], samples, pair.config)
    assert refused.value.reason is RejectionReason.FACE_LOST


def test_speech_files_must_match_the_visible_people(pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for path in (pair.videos / PLAN.name).iterdir():
        if path.name != "speech_1.wav":
            (folder / path.name).write_bytes(path.read_bytes())
    clip = replace(pair.clip, file=replace(pair.clip.file, path=folder / "video.mp4"))
    with pytest.raises(ClipRejected) as refused:
        prepare_clip(clip, pair.config)
    assert refused.value.reason is RejectionReason.SPEAKER_COUNT_MISMATCH
    assert "2 people" in refused.value.detail and str(tmp_path) not in refused.value.detail
    (folder / "speech_0.wav").unlink()
    assert prepare_clip(clip, pair.config).speaker_waveforms is None


def test_max_people_does_not_change_a_clip_of_one_person(
    tmp_path: Path, good: Path, components: Path, driver: Path
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(good / "talk.mp4", tmp_path / "in")
    plain = small_config(components, contact_sheet_clips=0)
    several = replace(plain, max_people=2, expression_encoder=str(driver))
    found = []
    for number, config in enumerate((plain, several)):
        output = tmp_path / str(number)
        records, _ = run_in_process(tmp_path / "in", output, config)
        found.append(PortraitDataset(output / "manifest.jsonl")[0])
        assert [record.people for record in records] == [1] and "people" not in (output / "manifest.jsonl").read_text()
    for name, tensor in found[0].features.tensors().items():
        assert torch.equal(getattr(found[1].features, name), tensor), name
    assert found[0].features.expression is None and found[0].features.boxes is None
    assert found[1].features.expression is not None and found[1].features.speakers is None


def test_several_people_need_an_expression_encoder() -> None:
    settings = PreparationConfig(base="somewhere")
    assert settings.fingerprint() == "8c1cad87b2590a75", "of earlier corpora"
    assert replace(settings, expression_encoder="a").fingerprint() != settings.fingerprint()
    with raises_input_error(ErrorCode.conflict, "max_people", 2) as error:
        replace(settings, max_people=2).validate()
    assert "expression_encoder" in str(error.value)
