"""Shared clips: two people of the portrait world who say two sentences, rendered once."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig
from fantasytalking.evaluation.benchmark.freeze import freeze_videos
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.evaluation_clip import EvaluationClip
from fantasytalking.media import read_audio, read_video, write_video
from fantasytalking.portrait_world.corpus.clip_corpus import CorpusPlan, make_corpus

pytest.importorskip("mediapipe")

SIZE = 96
SENTENCES = ("We took the early train to the sea.", "Both maps were above the pump.")
LATE = 2
"""Delay in frames of the predictions in `late`."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of four clips, 96 px, 25 frames per second: identities 1000 and 1001, two sentences each."""
    folder = tmp_path_factory.mktemp("world")
    for _ in make_corpus(CorpusPlan(range(1000, 1002), SENTENCES, size=SIZE, expression=0.7, body=0.5), folder):
        pass
    return folder


@pytest.fixture(scope="session")
def clips(world: Path) -> list[EvaluationClip]:
    """The corpus as clips, sorted by name; their cached results are shared by all tests."""
    return [EvaluationClip.from_file(path, name=path.parent.name) for path in sorted(world.glob("id*/video.mp4"))]


def world_config(*overrides: str) -> BenchmarkConfig:
    """Returns the configuration of the portrait world at the size of these clips."""
    path = preset_path("benchmarks", "portrait_world")
    return load_config(BenchmarkConfig, path, [f"width={SIZE}", f"height={SIZE}", *overrides])


@pytest.fixture(scope="session")
def protocol(world: Path) -> BenchmarkProtocol:
    """The frozen protocol of the corpus."""
    return freeze_videos("portrait_world", world, world_config())


@pytest.fixture(scope="session")
def same(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions that are the real videos themselves."""
    folder = tmp_path_factory.mktemp("same")
    for path in world.glob("id*/video.mp4"):
        shutil.copy(path, folder / f"{path.parent.name}.mp4")
    return folder


@pytest.fixture(scope="session")
def late(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions whose frames are two frames late."""
    folder = tmp_path_factory.mktemp("late")
    for path in world.glob("id*/video.mp4"):
        frames = read_video(path).frames
        later = np.concatenate([np.repeat(frames[:1], LATE, axis=0), frames[:-LATE]])
        write_video(folder / f"{path.parent.name}.mp4", later, fps=25, audio=read_audio(path))
    return folder
