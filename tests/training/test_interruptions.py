"""What ends or disturbs a run: stop signals, losses that are not finite, clips left out, errors of one process."""

import json
import math
import os
import shutil
import signal
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.dataset import PortraitDataset
from fantasytalking.data.features import load_features, save_features
from fantasytalking.training.config import TrainConfig, ValidationConfig
from fantasytalking.training.dataloader import BatchLayout, iter_micro_batches
from fantasytalking.training.stop_request import TrainingInterrupted
from fantasytalking.training.trainer import Trainer, ValidationResult
from tests.app.conftest import free_port
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import FORK_SERVER, start_fork_server
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, load_checkpoint_tensors, read_log, read_losses
from tests.training.tiny_corpus import make_corpus

VALIDATED: dict[str, Any] = {
    "validation__interval": 2,
    "validation__image": "p.png",
    "validation__audio": "a.wav",
    "checkpoints__interval": 100,
}


class SignalAtValidation:
    """A validation sampler that sends a signal to its own process."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __call__(self, model: Any, config: ValidationConfig, folder: Any, dtype: Any) -> ValidationResult:
        if self.number is not None:
            os.kill(os.getpid(), self.number)
        return ValidationResult({}, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_loses_no_step(configure: Configure, number: int):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)]
    stopped = configure("stopped", stage__steps=6, data__num_workers=1, **VALIDATED)
    with pytest.raises(TrainingInterrupted) as caught:
        Trainer(stopped, SignalAtValidation(number)).train()
    # Received after step 2, noticed at the end of step 3.
    assert (caught.value.step, caught.value.exit_code) == (3, 128 + number)
    assert signal.Signals(number).name in str(caught.value)
    assert [line["step"] for line in read_log(stopped.output)] == [1, 2, 3]
    assert not (Path(stopped.output) / "adapter").exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)] == before

    straight = configure("straight", stage__steps=6, **VALIDATED)
    for config in (stopped, straight):
        Trainer(config, SignalAtValidation(None)).train()
    assert bit_equal(load_checkpoint_tensors(stopped.output, 6), load_checkpoint_tensors(straight.output, 6))
    assert read_losses(stopped.output) == read_losses(straight.output)


def test_a_signal_to_the_whole_job_does_not_end_data_loading(configure: Configure):
    """A scheduler signals every process of a job, data loading processes included."""
    config = configure(stage__steps=4, data__num_workers=1)
    layout = BatchLayout(batch_size=2, gradient_accumulation_steps=1, world_size=1, rank=0)
    batches = iter_micro_batches(PortraitDataset(*config.data.manifests), config, layout, 0, pin_memory=False)
    names = [next(batches).clip_names]
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    workers = [int(child) for child in children if "pt_data_worker" in Path(f"/proc/{child}/comm").read_text()]
    for child in workers or map(int, children[-1:]):
        os.kill(child, signal.SIGTERM)
    names += [batch.clip_names for batch in batches]
    assert len(names) == 4


@pytest.fixture
def poisoned(tmp_path: Path, base: Path) -> tuple[Path, Path]:
    """A corpus with one clip, clip003, for which the model of the base returned with it is not finite."""
    manifest = make_corpus(tmp_path / "corpus")
    for path in (tmp_path / "corpus" / "features").iterdir():
        features = load_features(path)
        features.text.fill_(60_000 if path.stem == "clip003" else 0)
        save_features(features, path, "test")
    changed = tmp_path / "base"
    shutil.copytree(base, changed)
    weights = load_file(base / "diffusion_pytorch_model.safetensors")
    weights["condition_embedder.text_embedder.linear_1.weight"].fill_(1e36)
    save_file(weights, changed / "diffusion_pytorch_model.safetensors")
    return manifest, changed


def test_a_step_that_is_not_finite_is_skipped_and_logged(
    configure: Configure, poisoned: tuple[Path, Path], caplog: pytest.LogCaptureFixture
):
    manifest, base = poisoned
    changes: dict[str, Any] = {"manifest": manifest, "base": base, "stage__dropout__prompt": 0}
    straight = configure("straight", stage__steps=8, optimizer__ema_decay=0.5, **changes)
    Trainer(straight).train()
    recorded = [json.loads(line) for line in (Path(straight.output) / "not_finite.jsonl").read_text().splitlines()]
    assert [line["what"] for line in recorded] == ["loss", "loss"], "eight steps of two are two epochs"
    assert all(line["clips"].keys() == {"clip003"} for line in recorded)
    assert f"step {recorded[0]['step']} is skipped: its loss is not finite" in caplog.text
    skipped = [line["step"] for line in recorded]
    for line in read_log(straight.output):
        assert line["skipped_steps"] == (line["step"] in skipped)
        assert (line["loss"] is None) == (line["gradient_norm"] is None) == (line["step"] in skipped)
    assert all(bool(value.isfinite().all()) for value in load_adapter_tensors(straight.output).values())

    for steps in (skipped[0], 8):  # resumed right after a skipped step
        resumed = configure("resumed", stage__steps=steps, optimizer__ema_decay=0.5, **changes)
        Trainer(resumed).train()
    assert bit_equal(load_checkpoint_tensors(resumed.output, 8), load_checkpoint_tensors(straight.output, 8))
    assert bit_equal(load_adapter_tensors(resumed.output), load_adapter_tensors(straight.output))


def test_steps_that_are_never_finite_stop_the_run_which_then_resumes_otherwise(configure: Configure, tmp_path: Path):
    manifest = make_corpus(tmp_path / "corpus")
    config = configure(manifest=manifest, stage__steps=1)
    Trainer(config).train()
    (state,) = (Path(config.output) / "checkpoints").iterdir()
    trained = load_file(state / "trained.safetensors")
    name = next(name for name in trained if name.startswith("blocks."))
    save_file({**trained, name: torch.full_like(trained[name], math.nan)}, state / "trained.safetensors")

    changes: dict[str, Any] = {"stage__steps": 6, "optimizer__max_nonfinite_steps": 3, "checkpoints__keep_last_n": 9}
    with raises_input_error(ErrorCode.out_of_range, "loss", 3) as caught:
        Trainer(configure(manifest=manifest, **changes)).train()
    assert "data.exclude" in str(caught.value) and "optimizer.learning_rate" in str(caught.value)
    assert len((Path(config.output) / "not_finite.jsonl").read_text().splitlines()) == 3

    for step in (2, 3):  # the user goes back to sound weights
        shutil.rmtree(Path(config.output) / "checkpoints" / f"step-0000000{step}")
    save_file(trained, state / "trained.safetensors")
    Trainer(configure(manifest=manifest, optimizer__learning_rate=1e-5, **changes)).train()
    assert [line["skipped_steps"] for line in read_log(config.output)] == [0] * 6
    assert (Path(config.output) / "not_finite.jsonl").read_text() == ""


def test_a_run_resumes_with_another_rate_place_and_fewer_clips(configure: Configure, tmp_path: Path):
    Trainer(configure("run", manifest=make_corpus(tmp_path / "corpus"))).train()
    shutil.move(tmp_path / "corpus", tmp_path / "moved")
    changes: dict[str, Any] = {
        "optimizer__learning_rate": 5e-5,
        "optimizer__max_grad_norm": 0.5,
        "attention_backend": "native",
        "data__exclude": "[clip003,'clip00[67]']",
    }
    config = configure("run", manifest=tmp_path / "moved" / "manifest.jsonl", stage__steps=4, **changes)
    trainer = Trainer(config)
    assert [record.clip for record in trainer.dataset.records] == [f"clip{number:03d}" for number in (0, 1, 2, 4, 5)]
    trainer.train()
    assert [line["learning_rate"] for line in read_log(config.output)] == [1e-3, 1e-3, 5e-5, 5e-5]
    (line,) = (Path(config.output) / "changes.jsonl").read_text().splitlines()
    recorded = json.loads(line)
    assert recorded["step"] == 2
    assert recorded["changes"]["optimizer.learning_rate"] == [1e-3, 5e-5]
    assert recorded["changes"]["data.exclude"] == [[], ["clip003", "clip00[67]"]]
    assert recorded["changes"].keys() == {
        *("optimizer.learning_rate", "optimizer.max_grad_norm", "attention_backend", "data.exclude", "stage.steps")
    }


def test_other_clips_in_the_same_folder_raise(configure: Configure, tmp_path: Path):
    manifest, more = make_corpus(tmp_path / "corpus"), make_corpus(tmp_path / "more", clips=2)
    Trainer(configure(manifest=manifest)).train()
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    with raises_input_error(ErrorCode.conflict, "data.manifests", str(manifest)):
        Trainer(configure(manifest=manifest, stage__steps=4)).train()
    manifest.write_text("".join(lines))
    with raises_input_error(ErrorCode.conflict, "data.manifests", str(more)):
        Trainer(configure(data__manifests=f"[{manifest},{more}]", stage__steps=4)).train()
    Trainer(configure(manifest=manifest, stage__steps=4)).train()


def test_exclusions_that_match_nothing_or_everything_raise(configure: Configure):
    with raises_input_error(ErrorCode.unknown_key, "data.exclude", "clip03") as caught:
        Trainer(configure(data__exclude="[clip03]"))
    assert "did you mean 'clip003'" in str(caught.value)
    with raises_input_error(ErrorCode.out_of_range, "data.exclude", ["*"]):
        Trainer(configure(data__exclude="['*']"))


def train_on_rank(config: TrainConfig, rank: int, port: int, number: int | None, answer: SimpleQueue) -> None:
    """Trains as one of two processes, which signals itself at its first validation; answers what it raised."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    try:
        Trainer(config, SignalAtValidation(number)).train()
    except (InputError, TrainingInterrupted) as error:
        answer.put((rank, type(error).__name__, str(error), getattr(error, "exit_code", None)))
    else:
        answer.put((rank, "", "", 0))


def train_on_two_ranks(config: TrainConfig, signals: tuple[int | None, int | None] = (None, None)) -> list[tuple]:
    start_fork_server()
    answer, port = FORK_SERVER.SimpleQueue(), free_port()
    processes = [
        FORK_SERVER.Process(target=train_on_rank, args=(config, rank, port, signals[rank], answer)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    return sorted(answer.get() for _ in processes)


def test_a_signal_or_an_error_of_one_process_ends_both(configure: Configure):
    config = configure(stage__steps=6, batch_size=1, **VALIDATED)
    first, second = train_on_two_ranks(config, (None, signal.SIGTERM))
    assert first[1:] == second[1:] and first[1] == "TrainingInterrupted" and first[3] == 143
    (checkpoint,) = (Path(config.output) / "checkpoints").iterdir()
    assert checkpoint.name == "step-00000003"

    # Only the first process compares the configurations.
    changed = configure(stage__steps=6, batch_size=1, seed=1, **VALIDATED)
    first, second = train_on_two_ranks(changed)
    assert (first[1], second[1]) == ("InputError", "ReportedElsewhereError")
    assert "seed = 0, not 1" in first[2] and first[2] == second[2]
