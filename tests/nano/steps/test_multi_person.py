"""Tests of the build steps of the multi-person corpus and the expression adapter."""

from dataclasses import replace
from pathlib import Path

import pytest

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.prepare.plan import find_videos
from fantasytalking.media import read_video
from fantasytalking.nano.config import MAX_PORTRAIT_PARTS_BYTES, BuildConfig
from fantasytalking.nano.context import BuildContext
from fantasytalking.nano.pack import write_portrait_parts
from fantasytalking.nano.steps.multi_person import link_single_person_videos, make_multi_person_videos
from tests.helpers.errors import raises_input_error

SMOKE = CONFIGS_FOLDER / "nano" / "build_smoke.yaml"


def folder_of(path: Path, **files: int) -> Path:
    path.mkdir(parents=True)
    for name, size in files.items():
        (path / name).write_bytes(bytes(size))
    return path


@pytest.mark.slow
def test_multi_person_videos_are_rendered_next_to_linked_ones(videos: Path, tmp_path: Path) -> None:
    config = load_config(BuildConfig, SMOKE, [f"work_dir={tmp_path / 'work'}", "num_processes=1", "device=cpu"])
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "videos").symlink_to(videos)
    several = replace(config.multi_person_videos, num_single_person_identities=4)
    context = BuildContext(replace(config, multi_person_videos=several), tmp_path / "nano")
    assert make_multi_person_videos(context) == {"videos": 2, "videos_alone": 1}, "of the people 3 and 4 one is below 4"
    found = find_videos(tmp_path / "work" / "people_videos", None)
    assert [file.video.split("/")[0] for file in found] == ["alone", "group000", "group000"]
    assert found[0].size == found[0].path.resolve().stat().st_size > 1000
    assert found[0].path.with_suffix(".txt").read_text().endswith(".\n"), "the caption is linked too"
    assert {path.name for path in found[1].path.parent.glob("speech_*")} == {"speech_0.wav", "speech_1.wav"}
    assert read_video(found[1].path, duration=0.1).frames.shape[1:] == (96, 160, 3)
    drawn = [file.path.stat().st_mtime_ns for file in found]
    assert make_multi_person_videos(context) == {"videos": 2, "videos_alone": 1}
    assert [file.path.stat().st_mtime_ns for file in found] == drawn, "nothing is drawn twice"


def test_links_are_relative_and_resolve(videos: Path, tmp_path: Path) -> None:
    assert link_single_person_videos(videos, tmp_path / "alone", 3) == 0
    assert (
        link_single_person_videos(videos, tmp_path / "alone", 5)
        == link_single_person_videos(videos, tmp_path / "alone", 5)
        == 2
    )
    links = sorted((tmp_path / "alone").rglob("video.*"))
    assert len(links) == 4 and all(link.is_file() and not link.readlink().is_absolute() for link in links)


def test_encoder_and_adapter_are_added_to_a_pipeline(tmp_path: Path) -> None:
    encoder, adapter = folder_of(tmp_path / "e", weights=30), folder_of(tmp_path / "a", config=10, weights=20)
    output = folder_of(tmp_path / "nano", index=1)
    for _ in range(2):
        found = write_portrait_parts(encoder, adapter, output)
        assert found == {"bytes": 60, "parts": {"expression_encoder": 30, "expression_adapter": 30}}
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert files == {"index", "expression_encoder/weights", "expression_adapter/config", "expression_adapter/weights"}


def test_too_large_parts_or_a_missing_pipeline_write_nothing(tmp_path: Path) -> None:
    encoder, adapter = folder_of(tmp_path / "e", weights=1), folder_of(tmp_path / "a", weights=MAX_PORTRAIT_PARTS_BYTES)
    output = folder_of(tmp_path / "nano", index=1)
    with raises_input_error(ErrorCode.out_of_range, "output", MAX_PORTRAIT_PARTS_BYTES + 1) as caught:
        write_portrait_parts(encoder, adapter, output)
    assert "the limit is 8 MB" in str(caught.value)
    assert [path.name for path in output.iterdir()] == ["index"]
    with raises_input_error(ErrorCode.missing_file, "output", str(tmp_path / "elsewhere")):
        write_portrait_parts(encoder, encoder, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_prepared_sizes_keep_the_aspect_ratio_in_multiples_of_16() -> None:
    context = BuildContext(load_config(BuildConfig, SMOKE), Path("nano"))
    assert (context.prepared_size(96), context.prepared_size(160)) == (64, 112)
    whole = BuildContext(load_config(BuildConfig, SMOKE, ["prepared_size=null"]), Path("nano"))
    assert (whole.prepared_size(96), whole.prepared_size(160)) == (96, 160)
