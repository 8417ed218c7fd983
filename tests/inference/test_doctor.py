"""The examination of a machine and of a configuration's weights."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import fantasytalking
from fantasytalking.cli import run
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.doctor import component_bytes_on_disk, estimate_duration, examine, fit_device
from fantasytalking.inference.memory_plan import Phase
from fantasytalking.inference.meta_run import MetaRun
from fantasytalking.inference.optimizations import component_bytes
from tests.helpers.paths import ROOT
from tests.helpers.tiny_pipeline import adapters, base, pipe, saved

__all__ = ["adapters", "base", "pipe", "saved"]

NANO = ROOT / "checkpoints" / "nano"


RUNS = {Phase.denoise: MetaRun(0, 0.0), Phase.decode: MetaRun(0, 0.0)}


def nano() -> InferConfig:
    return load_config(InferConfig, preset_path("nano", "infer"))


def test_component_sizes_are_those_of_the_loaded_pipeline(saved: Path) -> None:
    from fantasytalking.pipeline import FantasyTalkingPipeline

    loaded = FantasyTalkingPipeline.from_pretrained(saved, torch_dtype=torch.bfloat16)
    assert component_bytes_on_disk(saved, torch.bfloat16) == pytest.approx(component_bytes(loaded.components), rel=0.01)


def test_files_in_place_of_components_count(saved: Path) -> None:
    whole = component_bytes_on_disk(saved, torch.float32)
    vae = next((saved / "vae").glob("*.safetensors"))
    given = component_bytes_on_disk(saved, torch.float32, {"components.text_encoder": vae})
    assert given == whole | {"text_encoder": whole["vae"]}
    transformer = next((saved / "transformer").glob("*.safetensors"))
    assert component_bytes_on_disk(transformer, torch.float32) == {"transformer": whole["transformer"]}


def test_nano_can_run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    run(["doctor", "--json", "--hashes"])
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["version"] == fantasytalking.__version__
    assert found["machine"]["packages"]["torch"] == torch.__version__
    (weights,) = found["weights"]
    onnx = NANO / "face_encoder" / "nano.onnx"
    assert weights["sha256"]["face_encoder/nano.onnx"] == hashlib.sha256(onnx.read_bytes()).hexdigest()
    assert weights["formats"][".onnx"] == onnx.stat().st_size
    assert found["fits"][0]["offload"] == "none" and found["duration"]["seconds"] > 0
    assert found["problems"] == []
    phases = {phase["phase"]: phase for phase in found["fits"][0]["phases"]}
    assert phases["decode"]["main_bytes"] > phases["load"]["main_bytes"] > 0


def test_missing_weights_are_named_with_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        run(["doctor", "adapter=checkpoints/fantasytalking_audio"])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "problem: missing weights 'checkpoints/fantasytalking_audio': hf download acvlab/FantasyTalking" in shown


def test_damaged_weights_are_a_problem(tmp_path: Path, saved: Path) -> None:
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(saved, folder)
    weights = next((folder / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    config = nano()
    config.base = str(folder)
    (problem,) = examine(config, duration=False).problems
    assert weights.name in problem


def test_the_least_offloading_that_fits_is_named() -> None:
    sizes = {"transformer": 30 << 30, "text_encoder": 10 << 30, "vae": 1 << 29, "audio_encoder": 1 << 29}
    found = [fit_device("cuda", memory << 30, sizes, RUNS).offload for memory in (80, 60, 24, 1)]
    assert found == ["none", "model", "group", None]
    assert fit_device("cpu", 24 << 30, sizes, RUNS).offload is None, "a processor has nothing to offload to"


def test_time_grows_with_steps_and_pixels() -> None:
    one = estimate_duration(nano())
    config = nano()
    config.num_inference_steps, config.sizes = 2 * one.num_steps, ["192x192"]
    other = estimate_duration(config)
    assert other.num_steps == 2 * one.num_steps and other.operations > 4 * one.operations
