"""Fixtures: a tiny corpus and base per session, and a fresh accelerate state per test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from fantasytalking.common.config import load_config
from fantasytalking.training.config import TrainConfig
from tests.training.tiny_corpus import config_overrides, make_base, make_corpus

Configure = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def configure(tmp_path: Path, corpus: Path, base: Path) -> Configure:
    """configure("name", key__sub=value) returns a configuration with the output folder tmp_path / name."""

    def build(name: str = "run", manifest: Path = corpus, **changes: Any) -> TrainConfig:
        return load_config(TrainConfig, None, config_overrides(tmp_path / name, manifest, base, **changes))

    return build


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
