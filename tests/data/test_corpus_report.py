"""The report of a corpus: counts, distributions, frames, and no text of others that a browser would run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fantasytalking.cli import run
from fantasytalking.common.config import save_config
from fantasytalking.common.errors import ErrorCode
from fantasytalking.data.corpus_report import histogram_svg
from fantasytalking.data.manifest import Rejection, RejectionReason, write_records
from fantasytalking.data.prepare.config import PreparationConfig
from tests.data.feature_corpus import record
from tests.helpers.errors import raises_input_error

HOSTILE = '<img src=x onerror="alert(1)">.mp4'


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    clips = [replace(record(number), video=HOSTILE, face_yaw=10.0 * number, start=float(number)) for number in range(3)]
    write_records(tmp_path / "manifest.jsonl", clips)
    profile = Rejection("a.mp4", 0.0, RejectionReason.PROFILE, "<b>70</b> degrees", {"face_yaw": 70.0, "people": 1})
    write_records(tmp_path / "rejected.jsonl", [profile, Rejection("b.mp4", 0.0, RejectionReason.NO_FACE, "")])
    save_config(PreparationConfig(base="somewhere", max_face_yaw=40.0), tmp_path / "data.yaml")
    return tmp_path


def test_the_report_counts_and_draws_and_escapes(corpus: Path, good: Path, tmp_path: Path) -> None:
    run(["report-corpus", "--corpus", str(corpus), "--input", str(good)])
    text = (corpus / "report.html").read_text()
    assert re.search(r"<td>profile</td><td class=\"number\">1</td>", text)
    assert "3 clips kept" in text and "2 rejected" in text and "max_face_yaw=40" in text
    assert "<img src=x" not in text and "<b>70</b>" not in text and "&lt;b&gt;70" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text
    assert "not readable" in text, "videos that are missing are named"


def test_frames_are_shown_where_the_videos_are(corpus: Path, good: Path) -> None:
    write_records(corpus / "manifest.jsonl", [replace(record(0), video="talk.mp4", start=0.0)])
    run(["report-corpus", "--corpus", str(corpus), "--input", str(good), "--output", str(corpus / "other.html")])
    assert (corpus / "other.html").read_text().count("data:image/jpeg;base64,") == 1
    run(["report-corpus", "--corpus", str(corpus)])
    assert "<figure>" not in (corpus / "report.html").read_text()


def test_histograms_have_their_limits(corpus: Path) -> None:
    drawn = histogram_svg([1.0, 2.0, 2.0], [5.0], [3.0, 9.0])
    assert drawn.count("<rect") == 3 and drawn.count("dasharray") == 1
    assert histogram_svg([2.0], [], []).count("<rect") == 1
    with raises_input_error(ErrorCode.missing_file):
        run(["report-corpus", "--corpus", str(corpus / "nosuch")])
