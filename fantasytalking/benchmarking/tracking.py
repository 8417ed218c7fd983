"""Benchmark row tracking: face tracking with lip masks against MediaPipe's FaceMesh, and two processes against one."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fantasytalking.benchmarking.interleaved_timing import time_interleaved
from fantasytalking.benchmarking.parallel_processes import time_in_processes
from fantasytalking.media import Video, read_video
from fantasytalking.perception.face_track import track_faces
from fantasytalking.perception.lip_mask import lip_mask
from fantasytalking.perception.mediapipe_graphs import create_face_mesh
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus

TRACKING_SENTENCE = (
    "We measure how fast a face is followed while somebody reads aloud, and since it takes a moment before the first "
    "face is found, the text has to be long enough to make that moment small beside the rest of it. "
    "So here are some more words about nothing in particular, until about twenty seconds have gone by."
)
TRACKING_ROUNDS = 5


def benchmark_tracking(video: Path | None, rounds: int = TRACKING_ROUNDS) -> str:
    """Times tracking and FaceMesh on the same frames in alternation.

    Args:
        video: video to track; None = a clip of the portrait world of 256 px, which is rendered first.
        rounds: number of rounds of which the median is taken.

    Returns:
        a Markdown table.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = video or _make_clip(Path(folder))
        frames = read_video(path, max_frames=500)
        count, height, width = frames.frames.shape[:3]
        bare, ours = time_interleaved(
            {"bare": lambda: _bare_face_mesh(frames), "ours": lambda: _track_with_masks(frames)},
            torch.device("cpu"),
            rounds,
        )
        one, two = (time_in_processes(_prepare, path, processes, rounds) for processes in (1, 2))
    speed = [1 / ratio for ratio in ours.ratios]
    return "\n".join(
        [
            f"{count} frames of {width} x {height}, median of {rounds} rounds, one core per process",
            "",
            "| variant | frames per second | ratio | spread |",
            "|---|---|---|---|",
            f"| bare FaceMesh | {count / bare.median:.1f} | 1 | |",
            f"| tracking with lip masks | {count / ours.median:.1f} | {1 / ours.ratio:.2f} | "
            f"{min(speed):.2f} to {max(speed):.2f} |",
            f"| tracking, one process | {count / one:.1f} | 1 | |",
            f"| tracking, two processes | {2 * count / two:.1f} | {2 * one / two:.2f} | |",
        ]
    )


def _make_clip(folder: Path) -> Path:
    for _ in make_corpus(CorpusPlan(range(1), [TRACKING_SENTENCE], size=256), folder):
        pass
    return next(folder.glob("id*/video.mp4"))


def _bare_face_mesh(video: Video) -> int:
    mesh = create_face_mesh()
    found = sum(mesh.process(frame).multi_face_landmarks is not None for frame in video.frames)
    mesh.close()
    return found


def _track_with_masks(video: Video) -> np.ndarray:
    tracks = track_faces(video.frames, video.times)
    return lip_mask(tracks[0].landmarks, *video.frames.shape[1:3])


def _prepare(path: Path) -> Callable[[], object]:
    video = read_video(path, max_frames=500)
    return lambda: _track_with_masks(video)
