"""Clips of several people: everybody is found, in one order, with what they say and what they do."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.common.errors import InputError
from fantasytalking.data.clip_rejected import Refused
from fantasytalking.data.dataset import PortraitDataset, Sample
from fantasytalking.data.features import Features
from fantasytalking.data.manifest import ClipRecord, Reason
from fantasytalking.data.prepare.clip import PreparedClip, prepare_clip
from fantasytalking.data.prepare.config import DataConfig
from fantasytalking.data.prepare.encode import Encoders
from fantasytalking.data.prepare.people import choose_people
from fantasytalking.data.prepare.plan import Clip, VideoFile
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.perception.face_crop import five_points
from fantasytalking.perception.lip_mask import lip_mask
from fantasytalking.portrait_world.corpus.group_clip import GroupPlan, Role, write_group_clip
from tests.data.preparation_runs import run_here, small_config
from tests.data.sample_videos import good_videos
from tests.helpers.fantasy_portrait_networks import save_released

WIDTH, HEIGHT, SCALE = 256, 128, 0.5
PLAN = GroupPlan(20, 3, (Role(31, "Move up, we go."), Role(4, "")), seed=1, expression=0.7, body=0.4)


@dataclass
class Pair:
    """A prepared video of two people, of whom the left one speaks."""

    videos: Path
    config: DataConfig
    records: list[ClipRecord]
    sample: Sample
    known: dict
    clip: Clip
    prepared: PreparedClip

    @property
    def features(self) -> Features:
        return self.sample.features


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, components: Path, driver: Path) -> Pair:
    videos, output = tmp_path_factory.mktemp("pair"), tmp_path_factory.mktemp("pairs") / "out"
    write_group_clip(PLAN, (WIDTH, HEIGHT), 1.2, videos / PLAN.name)
    settings = {"people": 2, "expression_encoder": str(driver), "buckets": ["128x64"], "contact_sheet_clips": 1}
    config = small_config(components, **settings)
    records, _ = run_here(videos, output, config)
    path = videos / PLAN.name / "video.mp4"
    clip = Clip(VideoFile(path, f"{PLAN.name}/video.mp4", path.stat().st_size), 0.0, None)
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
    assert float(features.face[0] @ features.face[1]) < 0.9999, "each has a face of their own"


def test_a_face_that_the_released_detector_does_not_see_is_left_out(pair: Pair, tmp_path: Path) -> None:
    save_released(tmp_path / "blind", brightness=0.3)
    config = replace(pair.config, expression_encoder=str(tmp_path / "blind"))
    with pytest.raises(InputError, match=r"no clip of .* can be used \(1 face_lost\)"):
        run_here(pair.videos, tmp_path / "out", config)
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert "own networks see no face" in line


def test_boxes_lie_where_the_faces_are_from_left_to_right(pair: Pair) -> None:
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


def test_each_is_heard_apart(pair: Pair) -> None:
    speakers, prepared = pair.features.speakers, pair.prepared
    assert speakers is not None and speakers.shape == (2, *pair.features.audio.shape)
    assert prepared.speakers is not None
    assert np.abs(prepared.speakers[0]).max() > 0.05 and np.abs(prepared.speakers[1]).max() == 0
    assert all(len(own) == len(prepared.samples) == round(17 / 25 * SAMPLE_RATE) for own in prepared.speakers)
    audio = Encoders.load(pair.config, torch.device("cpu")).audio
    for tokens, own in zip(speakers, prepared.speakers, strict=True):
        assert torch.equal(tokens, audio.encode(own).half())


def test_the_lip_mask_has_both_mouths(pair: Pair) -> None:
    alone = [lip_mask(track.landmarks, 64, 128) for track in pair.prepared.tracks]
    assert all(mask.any() for mask in alone) and not (alone[0] & alone[1]).any()
    assert np.array_equal(pair.prepared.lip_mask, alone[0] | alone[1])


def test_the_order_is_that_of_the_picture(pair: Pair) -> None:
    left, right = pair.prepared.tracks
    chosen = choose_people([right, left], pair.prepared.samples, pair.config)
    assert chosen[0] is left and chosen[1] is right


def test_more_people_than_wanted_and_people_who_come_later_are_refused(pair: Pair) -> None:
    tracks, samples = list(pair.prepared.tracks), pair.prepared.samples
    with pytest.raises(Refused) as refused:
        choose_people([*tracks, tracks[0]], samples, pair.config)
    assert refused.value.reason is Reason.SEVERAL_PEOPLE and "at most 2" in refused.value.detail
    present = tracks[1].present.copy()
    present[0] = False
    with pytest.raises(Refused) as refused:
        choose_people([tracks[0], replace(tracks[1], present=present)], samples, pair.config)
    assert refused.value.reason is Reason.FACE_LOST


def test_sounds_of_other_people_than_are_seen_are_refused(pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for path in (pair.videos / PLAN.name).iterdir():
        if path.name != "speech_1.wav":
            (folder / path.name).write_bytes(path.read_bytes())
    clip = replace(pair.clip, file=replace(pair.clip.file, path=folder / "video.mp4"))
    with pytest.raises(Refused) as refused:
        prepare_clip(clip, pair.config)
    assert refused.value.reason is Reason.SOUNDS_UNMATCHED
    assert "2 people" in refused.value.detail and str(tmp_path) not in refused.value.detail
    (folder / "speech_0.wav").unlink()
    assert prepare_clip(clip, pair.config).speakers is None


def test_one_person_is_prepared_as_before(tmp_path: Path, components: Path, driver: Path) -> None:
    good_videos(tmp_path / "in")
    (tmp_path / "in" / "more" / "cut.mp4").unlink()
    plain = small_config(components, contact_sheet_clips=0)
    several = replace(plain, people=2, expression_encoder=str(driver))
    found = []
    for number, config in enumerate((plain, several)):
        output = tmp_path / str(number)
        records, _ = run_here(tmp_path / "in", output, config)
        found.append(PortraitDataset(output / "manifest.jsonl")[0])
        assert [record.people for record in records] == [1] and "people" not in (output / "manifest.jsonl").read_text()
    for name, tensor in vars(found[0].features).items():
        if tensor is not None:
            assert torch.equal(getattr(found[1].features, name), tensor), name
    assert found[0].features.expression is None and found[0].features.boxes is None
    assert found[1].features.expression is not None and found[1].features.speakers is None


def test_settings_of_one_person_are_known_again_and_several_need_an_encoder() -> None:
    settings = DataConfig(components="somewhere")
    assert settings.fingerprint() == "8c1cad87b2590a75", "of corpora that were made before"
    assert replace(settings, expression_encoder="a").fingerprint() != settings.fingerprint()
    with pytest.raises(InputError, match=r"people is 2 and expression_encoder is not set"):
        replace(settings, people=2).validate()
