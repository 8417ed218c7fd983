"""Tests of perception on a hundred held-out clips: measurements of data preparation against the ground truth."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import spearmanr

from fantasytalking.media import read_video
from fantasytalking.perception.body_pose import track_body
from fantasytalking.perception.face_track import track_faces
from fantasytalking.perception.landmark_measures import mouth_opening
from fantasytalking.perception.motion_intensity import measure_motion
from fantasytalking.portrait_world.corpus.clip_corpus import (
    HELD_OUT_SENTENCES_FILE,
    CorpusPlan,
    make_corpus,
    read_sentences,
)

PEOPLE = range(1000, 1020)


class Seen(NamedTuple):
    """Fraction of frames with a face, measured and true mouth opening, requested and measured motion of a clip."""

    found: float
    measured: np.ndarray
    known: np.ndarray
    asked: tuple[float, float]
    motion: tuple[float, float]


def look(folder: Path) -> Seen:
    truth = json.loads((folder / "truth.json").read_text())
    video = read_video(folder / "video.mp4")
    track = track_faces(video.frames, video.times, max_people=1)[0]
    motion = measure_motion(track, track_body(video.frames, video.times))
    opening = mouth_opening(track.landmarks)
    known = np.array([frame["mouth_open"] for frame in truth["frames"]])[: len(opening)]
    opening = opening[: len(known)]
    seen = np.isfinite(opening)
    return Seen(
        float(track.present.mean()),
        opening[seen] - opening[seen].mean(),
        known[seen] - known[seen].mean(),
        (truth["expression"], truth["body"]),
        (motion.expression, motion.body),
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_measurements_of_a_hundred_held_out_clips_match_the_ground_truth(tmp_path: Path) -> None:
    sentences = read_sentences(HELD_OUT_SENTENCES_FILE, PEOPLE)[:5]
    for _ in make_corpus(CorpusPlan(PEOPLE, sentences, size=128), tmp_path, processes=2):
        pass
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        clips = list(pool.map(look, sorted(tmp_path.glob("id*"))))
    assert len(clips) == 100
    found = np.mean([clip.found for clip in clips])
    measured, known = (np.concatenate([getattr(clip, name) for clip in clips]) for name in ("measured", "known"))
    correlation = np.corrcoef(measured, known)[0, 1]
    asked, motion = (np.array([getattr(clip, name) for clip in clips]) for name in ("asked", "motion"))
    expression, body = (spearmanr(asked[:, index], motion[:, index]).statistic for index in range(2))
    print(f"found {found:.4f}, mouth {correlation:.3f}, expression {expression:.3f}, body {body:.3f}")  # noqa: T201
    assert found >= 0.99
    assert correlation >= 0.95
    assert expression >= 0.9
    assert body >= 0.9
