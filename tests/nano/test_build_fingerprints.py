"""Tests that fingerprints of build steps do not change, so that later versions resume existing builds."""

from dataclasses import replace
from pathlib import Path

import pytest

from fantasytalking.nano import build
from fantasytalking.nano.config import BuildConfig, PortraitImagesConfig, VideosConfig
from fantasytalking.nano.trainers.config import (
    AudioEncoderTraining,
    ComponentTrainingConfig,
    FaceEncoderTraining,
    TextImageEncoderTraining,
    VaeTraining,
)

FIT = ComponentTrainingConfig(10, 2, 0.001)
RECIPE = BuildConfig(
    image_size=96,
    videos=VideosConfig(2, 2, 1, 1),
    portrait_images=PortraitImagesConfig(3, 2, 3),
    vae=VaeTraining(fit=FIT),
    audio_encoder=AudioEncoderTraining(4, 2, fit=FIT),
    face_encoder=FaceEncoderTraining(fit=FIT),
    text_image_encoder=TextImageEncoderTraining(fit=FIT),
)
KNOWN = {
    "videos": "8633dae3d4e116e7",
    "vae": "ba5e93aff71356f9",
    "audio_encoder": "1ca75bf3ee517f02",
    "stills": "4a2910cd4c66cc49",
    "face_encoder": "aaa2924b51510e9a",
    "language": "81dd52f292246f21",
    "prepare": "ec1162c13d98742c",
    "base": "70cadafbb2c7cad1",
    "stage1": "a7fe75a798972147",
    "stage2": "0453dcb79fd79f50",
}
"""Fingerprints in the reports of existing builds."""
AFTER_PEOPLE = ["stage2_people", "stage2_more", "pack", "people", "pack_people"]


@pytest.fixture(autouse=True)
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the scripts' YAML files by constant ones."""
    monkeypatch.setattr(build, "CONFIGS_FOLDER", tmp_path)
    (tmp_path / "nano").mkdir()
    for name in ("data", "base", "stage1", "stage2", "stage2_people", "stage2_more", "people"):
        (tmp_path / "nano" / f"{name}.yaml").write_text("{}\n")


def fingerprints(config: BuildConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    for step in build.BUILD_STEPS:
        found[step.name] = build._fingerprint(step, config, found)
    return found


def test_fingerprints_of_existing_builds_are_unchanged() -> None:
    found = fingerprints(RECIPE)
    assert {name: found[name] for name in KNOWN} == KNOWN


def changed_steps(changed: BuildConfig) -> list[str]:
    before, after = fingerprints(RECIPE), fingerprints(changed)
    return [name for name in build.STEP_NAMES if before[name] != after[name]]


def test_the_portrait_stage_does_not_change_the_pipeline_steps() -> None:
    changed = replace(RECIPE, portrait_stage=replace(RECIPE.portrait_stage, overrides=["a=1"]))
    assert changed_steps(changed) == ["people", "pack_people"]


def test_multi_person_settings_change_the_steps_after_stage2() -> None:
    changed = replace(RECIPE, multi_person_prepare=replace(RECIPE.multi_person_prepare, overrides=["a=1"]))
    assert changed_steps(changed) == ["people_prepare", *AFTER_PEOPLE]


def test_pipeline_settings_change_all_training_steps() -> None:
    changed = replace(RECIPE, flow_shift=3.0)
    assert changed_steps(changed) == ["base", "stage1", "stage2", *AFTER_PEOPLE]


def test_a_vae_of_extended_videos_depends_on_them() -> None:
    further = replace(RECIPE, vae=replace(RECIPE.vae, extended_people=3))
    changed = replace(further, extended_videos=replace(RECIPE.extended_videos, rest_seconds=1.0))
    before, after = fingerprints(further), fingerprints(changed)
    assert before["vae"] != after["vae"] and before["videos"] == after["videos"]


def test_extended_corpus_settings_change_the_last_steps() -> None:
    changed = replace(RECIPE, extended_videos=replace(RECIPE.extended_videos, num_identities=5))
    assert changed_steps(changed) == ["more_videos", "more_prepare", *AFTER_PEOPLE[1:]]
