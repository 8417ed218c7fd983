"""The output folder of a run: one run at a time, readable by others, and one line when the disk is full."""

import json
import os
from pathlib import Path

import pytest

from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.locks import lock_output
from fantasytalking.training.trainer import Trainer
from tests.helpers.errors import raises_input_error
from tests.helpers.limits import file_size_limit
from tests.training.conftest import Configure


def test_a_second_run_is_refused_before_the_weights_are_read(configure: Configure, monkeypatch: pytest.MonkeyPatch):
    config = configure(stage__steps=1)
    with lock_output(Path(config.output)):
        monkeypatch.setattr(Trainer, "_build_model", lambda self: pytest.fail("the weights were read"))
        with raises_input_error(ErrorCode.output_exists, "output", config.output) as caught:
            Trainer(config)
    assert f"process {os.getpid()} on " in str(caught.value)


def test_the_lock_is_held_while_training_and_released_after_it(configure: Configure):
    config = configure(stage__steps=1)
    trainer = Trainer(config)
    with lock_output(Path(config.output)), raises_input_error(ErrorCode.output_exists, "output", config.output):
        trainer.train()
    assert not (Path(config.output) / "run.json").exists()
    trainer.train()
    with lock_output(Path(config.output)):
        pass


def test_a_checkpoint_that_the_disk_does_not_take_is_one_line_and_the_run_resumes(configure: Configure):
    config = configure(stage__steps=2, checkpoints__interval=1)
    output = Path(config.output)
    partial = output / "checkpoints" / ".step-00000001.partial"
    with (
        file_size_limit(6000),
        raises_input_error(ErrorCode.insufficient_resources, "output", str(partial)) as caught,
    ):
        Trainer(config).train()
    assert "choose another" in str(caught.value)
    Trainer(config).train()
    assert not partial.exists() and (output / "adapter").is_dir()


def test_the_umask_decides_who_may_read_checkpoints_and_adapters(configure: Configure):
    config = configure(stage__steps=1, checkpoints__interval=1, optimizer__ema_decay=0.9)
    before = os.umask(0o022)
    try:
        Trainer(config).train()
    finally:
        os.umask(before)
    written = [path for path in Path(config.output).rglob("*") if path.is_file()]
    assert {"trained.safetensors", "average.safetensors", "config.json"} <= {path.name for path in written}
    assert [path for path in written if path.stat().st_mode & 0o777 != 0o644] == []
    assert json.loads((Path(config.output) / "run.json").read_text())
