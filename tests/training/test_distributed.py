"""Two processes on the CPU equal one at the same global batch: DDP, FSDP, ZeRO-2 and ZeRO-3."""

import json
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from fantasytalking.common.config import CONFIGS_FOLDER
from fantasytalking.common.errors import ErrorCode
from fantasytalking.training.distributed import check_compatible
from fantasytalking.training.export import export_checkpoint
from fantasytalking.training.holdout_loss import HOLDOUT_LOG_FILE as HELD_OUT
from tests.helpers.errors import raises_input_error
from tests.helpers.launching import accelerate_launch, cpu_environment
from tests.training.conftest import Configure
from tests.training.run_artifacts import bit_equal, load_adapter_tensors, load_checkpoint_tensors, read_log
from tests.training.test_distillation import STAGE3 as DISTILLED
from tests.training.tiny_corpus import PORTRAIT_STAGE, config_overrides, make_corpus, make_driven_corpus

ROOT = CONFIGS_FOLDER.parent
STAGE3: dict[str, object] = {
    **DISTILLED,
    "stage__distillation__teacher_steps_per_window": 4,  # twelve calls of the teacher
}


def launch(settings: list[str], tmp_path: Path, config: str, processes: int, *before: str) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("model: nano\n")
    command = [
        *accelerate_launch(processes, config),
        *before,
        str(ROOT / "scripts" / "train_stage1.py"),
        "--config",
        str(empty),
        *settings,
    ]
    environment = cpu_environment()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=220, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.mark.slow
def test_two_processes_equal_one_and_resume(tmp_path: Path, base: Path):
    corpus = make_corpus(tmp_path / "corpus", clips=10, sizes=((64, 64), (96, 64)))
    changes = {"checkpoints__interval": 2, "stage__loss__weight": "lip", "optimizer__ema_decay": 0.9}
    changes |= {"holdout__interval": 3, "holdout__manifests": f"[{corpus}]", "holdout__max_clips": 5}

    def settings(name: str, **more: object) -> list[str]:
        return config_overrides(tmp_path / name, corpus, base, **changes, **more)

    launch(settings("one", batch_size=4, stage__steps=6), tmp_path, "single.yaml", 1)
    launch(settings("two", batch_size=1, gradient_accumulation_steps=2, stage__steps=6), tmp_path, "ddp.yaml", 2)
    for name in ("loss", "gradient_norm"):
        found = [line[name] for line in read_log(tmp_path / "two")]
        assert found == pytest.approx([line[name] for line in read_log(tmp_path / "one")], rel=1e-4)
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("one", "two")]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-5, atol=0)
    held_out = [json.loads(line) for name in ("one", "two") for line in (tmp_path / name / HELD_OUT).open()]
    assert [line["step"] for line in held_out] == [3, 6, 3, 6]
    for alone, together in zip(held_out[:2], held_out[2:], strict=True):
        assert together["lips"] == pytest.approx(alone["lips"], rel=1e-4)

    launch(settings("again", batch_size=1, gradient_accumulation_steps=2, stage__steps=4), tmp_path, "ddp.yaml", 2)
    launch(settings("again", batch_size=1, gradient_accumulation_steps=2, stage__steps=6), tmp_path, "ddp.yaml", 2)
    assert bit_equal(load_adapter_tensors(tmp_path / "again"), load_adapter_tensors(tmp_path / "two"))


@pytest.mark.slow
def test_a_checkpoint_on_one_machine_only_raises(tmp_path: Path, corpus: Path, base: Path):
    wrapper = str(Path(__file__).parent / "separate_machines.py")

    def settings(steps: int) -> list[str]:
        return config_overrides(Path("run"), corpus, base, batch_size=1, stage__steps=steps, checkpoints__interval=2)

    launch(settings(2), tmp_path, "ddp.yaml", 2, wrapper)
    with pytest.raises(AssertionError, match="is not visible to every process; output must be a folder that all"):
        launch(settings(4), tmp_path, "ddp.yaml", 2, wrapper)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp", "zero2", "zero3"])
def test_sharded_processes_equal_one(config: str, tmp_path: Path, corpus: Path, base: Path):
    wrapper = str(Path(__file__).parent / "cpu_sharding.py")

    average = {"optimizer__ema_decay": 0.5} if config == "fsdp" else {}

    def settings(name: str, **more: object) -> list[str]:
        return config_overrides(tmp_path / name, corpus, base, **average, **more)

    launch(settings("one", batch_size=4, stage__steps=3), tmp_path, "single.yaml", 1)
    for steps in (2, 3):
        launch(
            settings(config, batch_size=1, gradient_accumulation_steps=2, stage__steps=steps),
            tmp_path,
            f"{config}.yaml",
            2,
            wrapper,
        )
    for name in ("loss", "gradient_norm"):
        found = [line[name] for line in read_log(tmp_path / config)]
        assert found == pytest.approx([line[name] for line in read_log(tmp_path / "one")], rel=1e-4)
    one, sharded = load_adapter_tensors(tmp_path / "one"), load_adapter_tensors(tmp_path / config)
    assert sharded.keys() == one.keys()
    for name, value in one.items():
        # Adam turns a gradient of nearly nothing into a step of either sign; three steps of 1e-3 at most.
        torch.testing.assert_close(sharded[name], value, rtol=0, atol=3e-3)
        assert (sharded[name] - value).abs().mean() < 1e-5, name
    if config == "fsdp":
        shards = FileSystemReader(tmp_path / config / "checkpoints" / "step-00000003" / "trained").read_metadata()
        names = {name.removeprefix("model.") for name in shards.state_dict_metadata if name.startswith("model.")}
        assert names == load_checkpoint_tensors(str(tmp_path / "one"), 3).keys(), "the frozen base is not saved"
    export_checkpoint(tmp_path / config, tmp_path / "exported")
    assert bit_equal(load_file(tmp_path / "exported" / "adapter.safetensors"), sharded)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [{}, STAGE3], ids=["stage1", "stage3"])
@pytest.mark.parametrize("config", ["fsdp", "zero3"])
def test_sharded_processes_train_in_bf16(
    config: str, stage: dict[str, object], tmp_path: Path, corpus: Path, base: Path
):
    """As the presets of 14B do: sums of gradients and noise levels must not be rounded, teachers need many calls."""
    wrapper = str(Path(__file__).parent / "cpu_sharding.py")

    def settings(name: str, **more: object) -> list[str]:
        return config_overrides(tmp_path / name, corpus, base, **stage, stage__steps=3, **more)

    if stage:
        launch(config_overrides(tmp_path / "teacher", corpus, base, stage__steps=1), tmp_path, "single.yaml", 1)
        stage = {**stage, "stage__init_from": tmp_path / "teacher" / "adapter"}
    launch(settings("one", batch_size=4), tmp_path, "single.yaml", 1)
    launch(settings("half", batch_size=2, mixed_precision="bf16"), tmp_path, f"{config}.yaml", 2, wrapper)
    for name in ("loss", "gradient_norm"):
        found = [line[name] for line in read_log(tmp_path / "half")]
        assert found == pytest.approx([line[name] for line in read_log(tmp_path / "one")], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp", "zero3"])
def test_processes_that_train_expressions_equal_one(config: str, tmp_path: Path, base: Path):
    """Clips of one and two people; nested conditions reach every process."""
    corpus = make_driven_corpus(tmp_path / "corpus")
    wrapper = [] if config == "ddp" else [str(Path(__file__).parent / "cpu_sharding.py")]

    def settings(name: str, **more: object) -> list[str]:
        return config_overrides(tmp_path / name, corpus, base, **PORTRAIT_STAGE, stage__steps=3, **more)

    launch(settings("one", batch_size=4), tmp_path, "single.yaml", 1)
    launch(settings(config, batch_size=1, gradient_accumulation_steps=2), tmp_path, f"{config}.yaml", 2, *wrapper)
    for name in ("loss", "gradient_norm"):
        found = [line[name] for line in read_log(tmp_path / config)]
        assert found == pytest.approx([line[name] for line in read_log(tmp_path / "one")], rel=1e-4)
    assert load_adapter_tensors(tmp_path / config).keys() == load_adapter_tensors(tmp_path / "one").keys()


@pytest.mark.parametrize(
    ("distributed_type", "zero_stage", "changes", "field"),
    [
        (DistributedType.NO, 0, {"optimizer__ema_decay": 0.9, "optimizer__type": "muon"}, None),
        (DistributedType.MULTI_CPU, 0, {"optimizer__ema_decay": 0.9, "mixed_precision": "bf16"}, None),
        (DistributedType.DEEPSPEED, 2, {"optimizer__ema_decay": 0.9}, None),
        (DistributedType.DEEPSPEED, 2, {"optimizer__ema_decay": 0.9, "mixed_precision": "bf16"}, "optimizer.ema_decay"),
        (DistributedType.DEEPSPEED, 3, {"optimizer__ema_decay": 0.9}, "optimizer.ema_decay"),
        (DistributedType.DEEPSPEED, 2, {"optimizer__type": "muon"}, "optimizer.type"),
        (DistributedType.FSDP, 0, {"optimizer__ema_decay": 0.9, "mixed_precision": "bf16"}, None),
        (DistributedType.FSDP, 0, {"optimizer__type": "muon"}, "optimizer.type"),
    ],
)
def test_settings_that_need_whole_parameters_raise_when_sharded(
    configure: Configure, distributed_type: DistributedType, zero_stage: int, changes: dict, field: str | None
):
    config = configure(**changes)
    plugin = SimpleNamespace(zero_stage=zero_stage)
    accelerator: Any = SimpleNamespace(
        distributed_type=distributed_type, state=SimpleNamespace(deepspeed_plugin=plugin)
    )
    with nullcontext() if field is None else raises_input_error(ErrorCode.unsupported, field):
        check_compatible(config, accelerator)


@pytest.mark.slow
def test_sigterm_to_the_launcher_loses_at_most_a_step(tmp_path: Path, corpus: Path, base: Path):
    run = tmp_path / "run"
    settings = config_overrides(run, corpus, base, batch_size=1, stage__steps=10**6, checkpoints__interval=10**6)
    (tmp_path / "empty.yaml").write_text("model: nano\n")
    script = [str(ROOT / "scripts" / "train_stage1.py"), "--config", str(tmp_path / "empty.yaml"), *settings]
    command = [*accelerate_launch(2), *script]
    process = subprocess.Popen(command, env=cpu_environment(), stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 150
    while not ((run / "log.jsonl").is_file() and len(read_log(run)) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("SIGTERM: stopped after step") == 1, "one line of one process"
    (checkpoint,) = (run / "checkpoints").iterdir()
    last = read_log(run)[-1]["step"]
    assert checkpoint.name == f"step-{last:08d}" and f"after step {last}," in errors
