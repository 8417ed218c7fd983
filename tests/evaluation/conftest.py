"""Two people of the portrait world who say a sentence, rendered once: the real videos of these tests."""

from pathlib import Path

import pytest

from fantasytalking.evaluation.clip import Clip
from fantasytalking.portrait_world.corpus import CorpusPlan, make_corpus

pytest.importorskip("mediapipe")

SIZE = 96
SENTENCES = ("We took the early train to the sea.", "Both maps were above the pump.")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of four clips, 96 px, 25 frames a second: identities 1000 and 1001, two sentences each."""
    folder = tmp_path_factory.mktemp("world")
    for _ in make_corpus(CorpusPlan(range(1000, 1002), SENTENCES, size=SIZE, expression=0.7, body=0.5), folder):
        pass
    return folder


@pytest.fixture(scope="session")
def clips(world: Path) -> list[Clip]:
    """The corpus as clips in the order of their names; what they cache is shared by all tests."""
    return [Clip.from_file(path, name=path.parent.name) for path in sorted(world.glob("id*/video.mp4"))]
