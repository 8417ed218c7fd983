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
from fantasytalking.inference.doctor import estimate_duration, examine, fit_device
from fantasytalking.inference.loading_plan import LoadedWeights
from fantasytalking.inference.memory_plan import Phase
from fantasytalking.inference.meta_run import MetaRun
from fantasytalking.inference.optimizations import component_bytes
from fantasytalking.inference.rehearsal.random_weights import RandomTensor, write_shards
from fantasytalking.inference.stored_weights import plan_stored_weights, stored_weights
from fantasytalking.models.wan_loading import adapter_module_of
from tests.helpers.paths import ROOT
from tests.helpers.repacked_files import ONE_HEAD, is_quantized, write_quantized_gguf
from tests.helpers.tiny_pipeline import adapters, base, pipe, saved
from tests.helpers.tiny_transformer import tiny_transformer

__all__ = ["adapters", "base", "pipe", "saved"]

NANO = ROOT / "checkpoints" / "nano"


RUNS = {Phase.denoise: MetaRun(0, 0.0), Phase.decode: MetaRun(0, 0.0)}


def nano() -> InferConfig:
    return load_config(InferConfig, preset_path("nano", "infer"))


def planned(base: Path, dtype: torch.dtype, separate: dict[str, Path] | None = None) -> dict[str, LoadedWeights]:
    return plan_stored_weights(stored_weights(base, separate or {}, keeps_quantized=False), dtype, is_for_cpu=True)


def test_component_sizes_are_those_of_the_loaded_pipeline(saved: Path) -> None:
    from fantasytalking.pipeline import FantasyTalkingPipeline

    loaded = FantasyTalkingPipeline.from_pretrained(saved, torch_dtype=torch.bfloat16)
    sizes = {name: each.total for name, each in planned(saved, torch.bfloat16).items()}
    assert sizes == pytest.approx(component_bytes(loaded.components), rel=0.01)


def test_weights_count_as_copied_where_a_cpu_cannot_use_them_as_mapped(tmp_path: Path) -> None:
    for name, alignment in (("text_encoder", 64), ("image_encoder", 8), ("vae", 64)):
        tensors = {"a.weight": RandomTensor.of("a.weight", (4, 8), torch.float32)}
        write_shards(tmp_path / name, "model", tensors, alignment)
    found = planned(tmp_path, torch.float32)
    assert {name: each.own for name, each in found.items()} == {"text_encoder": 0, "image_encoder": 128, "vae": 128}
    assert {each.own for each in planned(tmp_path, torch.bfloat16).values()} == {64, 128}, "converted weights are"


def test_quantized_files_are_planned_as_they_are_kept(tmp_path: Path) -> None:
    model = tiny_transformer(seed=0, **ONE_HEAD)
    base = {name: value for name, value in model.state_dict().items() if adapter_module_of(name) is None}
    write_quantized_gguf(tmp_path / "wan.gguf", base)
    kept, read = (
        plan_stored_weights(stored_weights(tmp_path / "wan.gguf", {}, keeps_quantized=keep), torch.bfloat16, True)
        for keep in (True, False)
    )
    linear = {
        name: value.numel() for name, value in base.items() if is_quantized(name, value) and not value.shape[1] % 32
    }
    quantized = [count for name, count in linear.items() if "time_embedder" not in name]  # which stays in float32
    size = read["transformer"].total
    assert size == 2 * sum(value.numel() for value in base.values()) and read["transformer"].own == size
    assert kept["transformer"].total == size - 2 * sum(quantized) + sum(quantized) * 34 // 32
    assert kept["transformer"].own == size - 2 * sum(quantized)
    assert (kept["transformer"].dequantized, read["transformer"].transient) == (4 * max(quantized), 8 * max(quantized))


def test_files_in_place_of_components_count(saved: Path) -> None:
    whole = planned(saved, torch.float32)
    vae = next((saved / "vae").glob("*.safetensors"))
    given = planned(saved, torch.float32, {"components.audio_encoder": vae})
    assert given["audio_encoder"].total == whole["vae"].total
    assert given["text_encoder"] == whole["text_encoder"]


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
    assert phases["decode"]["main_bytes"] > 0 and phases["load"]["main_bytes"] > 0


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
    weights = {name: LoadedWeights(size, size) for name, size in sizes.items()}
    found = [fit_device("cuda", memory << 30, weights, RUNS, nano()).offload for memory in (80, 60, 24, 1)]
    assert found == ["none", "model", "group", None]
    assert fit_device("cpu", 24 << 30, weights, RUNS, nano()).offload is None, "a processor has nothing to offload to"
    mapped = {name: LoadedWeights(size, 0) for name, size in sizes.items()}
    assert fit_device("cpu", 24 << 30, mapped, RUNS, nano()).offload == "none", "mapped weights need not fit"


def test_time_grows_with_steps_and_pixels() -> None:
    one = estimate_duration(nano())
    config = nano()
    config.num_inference_steps, config.sizes = 2 * one.num_steps, ["192x192"]
    other = estimate_duration(config)
    assert other.num_steps == 2 * one.num_steps and other.operations > 4 * one.operations
