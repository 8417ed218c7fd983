"""manifest.jsonl and rejected.jsonl: round trip, and errors that name the malformed line."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.manifest import (
    Rejection,
    RejectionReason,
    read_manifest,
    read_rejections,
    write_records,
)
from fantasytalking.data.prepare.plan import VideoFile
from tests.data.feature_corpus import record
from tests.helpers.errors import raises_input_error


def test_lines_are_sorted_and_round_trip(tmp_path: Path) -> None:
    clips = [record(3), record(1), replace(record(1), start=0.25, clip="é"), replace(record(2), people=2)]
    write_records(tmp_path / "manifest.jsonl", clips)
    assert read_manifest(tmp_path / "manifest.jsonl") == [clips[2], clips[1], clips[3], clips[0]]
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line.get("people") for line in lines] == [None, None, 2, None], "omitted for one person"
    rejections = [
        Rejection("b.mp4", 0.0, RejectionReason.SILENT, "-80 dB"),
        Rejection("a.mp4", 2.5, RejectionReason.NO_FACE, ""),
    ]
    write_records(tmp_path / "rejected.jsonl", rejections)
    assert read_rejections(tmp_path / "rejected.jsonl") == rejections[::-1]
    assert json.loads((tmp_path / "rejected.jsonl").read_text().splitlines()[0])["reason"] == "no_face"


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("features", "/etc/a.safetensors", "out of range"),
        ("features", "../a.safetensors", "out of range"),
        ("frames", 0, "out of range"),
        ("frames", "9", "type int"),
        ("expression", 1.5, "out of range"),
        ("fps", float("inf"), "type float"),
        ("surprise", 1, "unknown"),
        ("body", None, "type float"),
        ("people", 0, "out of range"),
        ("people", 2.0, "type int"),
    ],
)
def test_malformed_lines_are_named_by_number_and_key(tmp_path: Path, key: str, value: object, word: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (asdict(record(0)), {**asdict(record(1)), key: value})))
    with raises_input_error(ErrorCode.malformed_file, key, None if word == "unknown" else value) as error:
        read_manifest(path)
    assert "line 2" in str(error.value) and word in str(error.value)


def test_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps({**asdict(record(0)), "fps": float("nan")}))
    with raises_input_error(ErrorCode.malformed_file, "fps") as error:
        read_manifest(path)
    assert "line 1" in str(error.value) and "type float" in str(error.value)


def test_files_that_are_not_manifests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    for content, field, value in [
        (b"", "path", str(path)),
        (b"\xff\xfe\n", "manifest", str(path)),
        (b"[1]\n", "line 1", "list"),
        (b"[" * 90000, "line 1", None),
    ]:
        path.write_bytes(content)
        with raises_input_error(ErrorCode.malformed_file, field, value):
            read_manifest(path)
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(tmp_path / "nothing.jsonl")


def test_names_of_videos_that_are_not_utf8_are_kept(tmp_path):
    name = os.fsdecode(b"lat\xe9.mp4")
    rejection = Rejection(name, 0.0, RejectionReason.UNREADABLE, f"'{name}' is damaged")
    write_records(tmp_path / "rejected.jsonl", [rejection])
    assert (tmp_path / "rejected.jsonl").read_text("utf-8").count("lat\\udce9.mp4") == 2
    assert read_rejections(tmp_path / "rejected.jsonl") == [rejection]
    assert VideoFile(tmp_path / name, name, 3).name.isascii()
    assert VideoFile(tmp_path / "a.mp4", "a.mp4", 3).name == "35-a-8f6c01ae"
