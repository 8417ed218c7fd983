"""A checkpoint becomes the adapter that the run itself would have written."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fantasytalking.checkpoints.adapter import read_adapter
from fantasytalking.cli import run
from fantasytalking.common.errors import ErrorCode
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, load_checkpoint_tensors
from tests.training.tiny_corpus import make_corpus


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "train.yaml"}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__ema_decay": 0.5, "attention_backend": "native"},
        {"stage__trainable": "[audio,'blocks.0.ffn.*']", "stage__lora__rank": 2},
    ],
    ids=["average", "base and LoRA"],
)
def test_the_last_checkpoint_gives_the_adapter_of_the_run(configure: Configure, tmp_path: Path, changes: dict):
    manifest = make_corpus(tmp_path / "corpus")
    MotionNormalizer(0.5, 2.0, 0.5, 2.0).save(manifest.parent / MOTION_NORMALIZER_FILE)
    adapter = Trainer(configure("run", manifest=manifest, stage__steps=3, **changes)).train()
    shutil.rmtree(tmp_path / "corpus")  # the clips are not needed
    run(["export", "--run", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert files(tmp_path / "out") == files(adapter)
    height = read_adapter(adapter)[0].face_ranges["1"]["height"]  # type: ignore[index]
    assert height == pytest.approx([0.5, 0.57], abs=1e-3), "sizes of faces in the clips travel with the adapter"


def test_an_earlier_checkpoint_and_its_trained_weights(configure: Configure, tmp_path: Path):
    config = configure("run", stage__steps=3, checkpoints__keep_last_n=3, optimizer__ema_decay=0.5)
    Trainer(config).train()
    options = ["--run", config.output, "--output", str(tmp_path / "out"), "--step", "2"]
    run(["export", *options, "--weights", "trained"])
    trained = load_checkpoint_tensors(config.output, 2)
    exported = load_file(tmp_path / "out" / "adapter.safetensors")
    assert bit_equal({name: exported[name] for name in trained}, trained)
    assert read_adapter(tmp_path / "out")[0].extra["steps"] == 2
    run(["export", *options])
    average = load_file(Path(config.output) / "checkpoints" / "step-00000002" / "average.safetensors")
    again = load_file(tmp_path / "out" / "adapter.safetensors")
    assert bit_equal({name: again[name] for name in average}, average) and not bit_equal(again, exported)
    assert not torch.equal(next(iter(load_adapter_tensors(config.output).values())), next(iter(again.values())))


def test_what_has_no_checkpoint_raises(configure: Configure, tmp_path: Path):
    with raises_input_error(ErrorCode.missing_file, "--run", str(tmp_path)):
        run(["export", "--run", str(tmp_path), "--output", str(tmp_path / "out")])
    config = configure("run")
    Trainer(config).train()
    with raises_input_error(ErrorCode.missing_file, "--step", 7) as caught:
        run(["export", "--run", config.output, "--output", str(tmp_path / "out"), "--step", "7"])
    assert "it has 1, 2" in str(caught.value)
    shutil.rmtree(Path(config.output) / "checkpoints")
    with raises_input_error(ErrorCode.missing_file, "--run", config.output):
        run(["export", "--run", config.output, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
