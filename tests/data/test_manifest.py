"""manifest.jsonl and rejected.jsonl: what is written comes back, and nothing else is believed."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import (
    Rejection,
    RejectionReason,
    read_manifest,
    read_rejections,
    write_records,
)
from tests.data.feature_corpus import record


def test_lines_come_back_sorted(tmp_path: Path) -> None:
    clips = [record(3), record(1), replace(record(1), start=0.25, clip="é"), replace(record(2), people=2)]
    write_records(tmp_path / "manifest.jsonl", clips)
    assert read_manifest(tmp_path / "manifest.jsonl") == [clips[2], clips[1], clips[3], clips[0]]
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line.get("people") for line in lines] == [None, None, 2, None], "as before for one person"
    rejections = [
        Rejection("b.mp4", 0.0, RejectionReason.SILENT, "-80 dB"),
        Rejection("a.mp4", 2.5, RejectionReason.NO_FACE, ""),
    ]
    write_records(tmp_path / "rejected.jsonl", rejections)
    assert read_rejections(tmp_path / "rejected.jsonl") == rejections[::-1]
    assert json.loads((tmp_path / "rejected.jsonl").read_text().splitlines()[0])["reason"] == "no_face"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "/etc/a.safetensors"}, "features is '/etc"),
        ({"features": "../a.safetensors"}, "features is"),
        ({"frames": 10}, "frames is 10"),
        ({"frames": "9"}, "must be of type int"),
        ({"expression": 1.5}, "expression is 1.5"),
        ({"fps": float("nan")}, "must be of type float"),
        ({"surprise": 1}, "'surprise' is unknown"),
        ({"body": None}, "must be of type float"),
        ({"people": 0}, "people is 0"),
        ({"people": 2.0}, "people is 2.0"),
    ],
)
def test_lines_that_cannot_be_are_refused_by_number(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (asdict(record(0)), {**asdict(record(1)), **change})))
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        read_manifest(path)


def test_files_that_are_no_manifest_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    for content, message in [
        (b"", "holds no clip"),
        (b"\xff\xfe\n", "line 1"),
        (b"[1]\n", "list"),
        (b"[" * 90000, "line 1"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_manifest(path)
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(tmp_path / "nothing.jsonl")
