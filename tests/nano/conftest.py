"""Session fixtures: videos of two people and portrait images of three more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fantasytalking.nano.corpora.frame_store import FrameStore, open_frame_store
from fantasytalking.nano.corpora.portrait_images import PortraitImages, load_portrait_images, render_missing_portraits
from fantasytalking.nano.corpora.video_corpus import CorpusPart, render_videos
from tests.helpers.shared_folder import shared_folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    part = CorpusPart("group000", range(3, 5), ("Move up.",))
    return shared_folder(
        tmp_path_factory,
        "videos",
        lambda folder: render_videos([part], folder, 96, seed=0, processes=1, zoom=1.2),
    )


@pytest.fixture(scope="session")
def frames(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = shared_folder(tmp_path_factory, "frames", lambda folder: open_frame_store(videos, folder / "frames"))
    return open_frame_store(videos, folder / "frames")


@pytest.fixture(scope="session")
def stills(tmp_path_factory: pytest.TempPathFactory) -> PortraitImages:

    def write(folder: Path) -> None:
        assert list(render_missing_portraits(range(3), 4, 96, folder, seed=0, processes=1)) == [0, 1, 2, 3]

    return load_portrait_images(range(3), shared_folder(tmp_path_factory, "stills", write))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
