"""A corpus is split so that no person is in both parts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fantasytalking.cli import run
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.features import load_features, save_features
from fantasytalking.data.manifest import ClipRecord, read_manifest, write_records
from fantasytalking.data.person_split import PersonSource, split_by_person
from tests.data.feature_corpus import save_clip
from tests.helpers.errors import raises_input_error

PEOPLE = [0, 0, 1, 1, 2, 3, 3, 4, 5, 5]
"""Person of each video; each has two clips."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    generator = torch.Generator().manual_seed(0)
    identities = torch.nn.functional.normalize(torch.randn(6, 512, generator=generator), dim=-1)
    records = []
    for video, person in enumerate(PEOPLE):
        for clip in range(2):
            record = save_clip(folder, 2 * video + clip)
            record = replace(record, video=f"person{person}/{video}.mp4")
            features = load_features(folder / record.features)
            face = identities[person] + 0.03 * torch.randn(512, generator=generator)
            face = torch.nn.functional.normalize(face[None], dim=-1)
            save_features(replace(features, face=face), folder / record.features, "test")
            records.append(record)
    write_records(folder / "manifest.jsonl", records)
    return folder / "manifest.jsonl"


def people_of(records: list[ClipRecord]) -> set[int]:
    return {PEOPLE[int(Path(record.video).stem)] for record in records}


@pytest.mark.parametrize("source", [PersonSource.face, PersonSource.folder])
def test_no_person_is_in_both_parts(manifest: Path, source: PersonSource):
    for seed in range(5):
        split = split_by_person(manifest, 0.3, source, 0.4, seed)
        assert people_of(split.train).isdisjoint(people_of(split.held_out))
        assert (split.train_people, split.held_out_people) == (
            len(people_of(split.train)),
            len(people_of(split.held_out)),
        )
        assert len(split.train) + len(split.held_out) == 20 and 2 <= len(split.held_out) <= 6
        if source is PersonSource.face:
            assert split.nearest is not None and split.nearest < 0.4
    assert split_by_person(manifest, 0.3, source, 0.4, 1) == split_by_person(manifest, 0.3, source, 0.4, 1)


def test_faces_connect_videos_over_others(manifest: Path, tmp_path: Path):
    """Two people in one clip belong together, and so do all clips of either."""
    folder, records = manifest.parent, read_manifest(manifest)
    both = save_clip(folder, 90)
    features = load_features(folder / both.features)
    faces = [load_features(folder / records[index].features).face for index in (0, 4)]
    save_features(replace(features, face=torch.cat(faces)), folder / both.features, "test")
    write_records(folder / "both.jsonl", [*records, replace(both, video="both.mp4", people=2)])
    split = split_by_person(folder / "both.jsonl", 0.5, PersonSource.face, 0.4, 0)
    assert split.train_people + split.held_out_people == 5
    for part in (split.train, split.held_out):
        videos = {record.video for record in part}
        assert len(videos & {"both.mp4", "person0/0.mp4", "person1/2.mp4"}) in (0, 3)


def test_the_command_writes_two_manifests(manifest: Path, capsys: pytest.CaptureFixture[str]):
    run(["split-corpus", "--manifest", str(manifest), "--held-out", "0.2"])
    train, held_out = (PortraitDataset(manifest.with_name(f"manifest_{name}.jsonl")) for name in ("train", "heldout"))
    assert len(train) + len(held_out) == 20 and len(train[0].features.face) == 1
    assert "people to train on" in capsys.readouterr().out


def test_what_cannot_be_split_raises(manifest: Path):
    with raises_input_error(ErrorCode.out_of_range, "--held-out", 0.01):
        split_by_person(manifest, 0.01, PersonSource.face, 0.4, 0)
    with raises_input_error(ErrorCode.out_of_range, "--held-out", 1.0):
        split_by_person(manifest, 1.0, PersonSource.face, 0.4, 0)
    with raises_input_error(ErrorCode.out_of_range, "--held-out"):
        split_by_person(manifest, 0.5, PersonSource.face, -0.9, 0)  # everyone is one person
    records = [replace(record, video=Path(record.video).name) for record in read_manifest(manifest)]
    write_records(manifest.with_name("flat.jsonl"), records)
    with raises_input_error(ErrorCode.conflict, "--by", records[0].video):
        split_by_person(manifest.with_name("flat.jsonl"), 0.5, PersonSource.folder, 0.4, 0)
