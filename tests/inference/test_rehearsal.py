"""Rehearsals: random weights in true layouts, a video of them, and the plan beside what was measured."""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from fantasytalking.checkpoints.adapter import ADAPTER_FILE
from fantasytalking.cli import run
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.process_memory import PeakMemory, memory_use
from fantasytalking.common.stored_tensors import MAX_DEQUANTIZED_VALUES
from fantasytalking.common.tensor_io import open_model_folder, open_safetensors
from fantasytalking.inference.component_shapes import build_meta_components
from fantasytalking.inference.loading_plan import LoadedWeights, onloaded_group_bytes
from fantasytalking.inference.memory_plan import Phase, Placement, plan_phases
from fantasytalking.inference.meta_run import MetaRun, run_on_meta
from fantasytalking.inference.rehearsal import random_weights, work_folder
from fantasytalking.inference.rehearsal.model_files import write_files
from fantasytalking.inference.rehearsal.random_weights import RandomTensor, write_safetensors, write_shards
from fantasytalking.inference.rehearsal.stored_layouts import WeightFormat, files_bytes, plan_files
from fantasytalking.inference.stored_weights import OPENERS
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import load_from_wan
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT
from tests.helpers.repacked_files import ONE_HEAD
from tests.helpers.tiny_transformer import PORTRAIT, tiny_transformer

linux = pytest.mark.skipif(memory_use() is None, reason="needs /proc")
SHAPES = {"a.weight": (3, 5), "a.bias": (7,), "norm.weight": (4,), "b.weight": (2, 3, 4)}


def random_tensors(dtype: torch.dtype) -> dict[str, RandomTensor]:
    return {name: RandomTensor.of(name, shape, dtype) for name, shape in SHAPES.items()}


def rehearse_nano(work: Path, *options: str) -> None:
    run(["rehearse", "--preset", "nano", "--work", str(work), *options])


@linux
def test_nano_is_rehearsed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    work = tmp_path / "work"
    options = ["--size", "64x64", "--frames", "5", "--steps", "1", "--device", "cpu", "--json"]
    rehearse_nano(work, *options)
    found = json.loads(capsys.readouterr().out)
    assert [phase["phase"] for phase in found["phases"]] == [phase.value for phase in Phase]
    assert all(phase["seconds"] > 0 and phase["planned_bytes"] > 0 for phase in found["phases"])
    assert found["peak"] > 0 and Path(found["video"]).is_file()
    description = {"preset": "nano", "layers": None, "format": "safetensors", "aligned": False}
    assert work_folder.holds_weights(work, description), "the next call uses them again"
    assert not work_folder.holds_weights(work, {**description, "layers": 1})
    rehearse_nano(work, "--clean")
    assert not work.exists()


def test_nothing_of_others_is_overwritten_or_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for options in ((), ("--clean",)):
        with raises_input_error(ErrorCode.output_exists, "--work", str(tmp_path)):
            rehearse_nano(tmp_path, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    with raises_input_error(ErrorCode.insufficient_resources, "--work"):
        work_folder.check_disk(tmp_path / "work", 1 << 60)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("alignment", [8, 64])
def test_random_weights_are_read_as_planned(tmp_path: Path, alignment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_weights, "CHUNK_NUMBERS", 4)
    write_safetensors(tmp_path / "a.safetensors", random_tensors(torch.bfloat16), alignment)
    stored = open_safetensors(tmp_path / "a.safetensors")
    assert stored.shapes == SHAPES
    assert stored.read("a.weight").data_ptr() % 64 == alignment % 64
    assert torch.equal(stored.read("a.bias"), torch.zeros(7, dtype=torch.bfloat16))
    assert torch.equal(stored.read("norm.weight"), torch.ones(4, dtype=torch.bfloat16))
    assert stored.read("b.weight").float().std() > 0


def test_shards_have_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_weights, "SHARD_BYTES", 70)
    write_shards(tmp_path, "diffusion_pytorch_model", random_tensors(torch.float32), 8)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert open_model_folder(tmp_path).shapes == SHAPES


PUBLISHED_BYTES = {
    "safetensors": {"transformer": 32.8e9, "text_encoder": 11.36e9, "image_encoder": 1.26e9, "vae": 0.508e9},
    "fp8_scaled": {"text_encoder": 6.74e9, "image_encoder": 1.26e9, "vae": 0.254e9},
    "gguf_q8_0": {"transformer": 17.9e9, "text_encoder": 6.04e9},
}


@pytest.mark.parametrize("name", PUBLISHED_BYTES)
def test_files_have_the_published_sizes(name: str) -> None:
    """Wan2.1-I2V-14B in half precision (docs/models.md), ComfyUI's repacks, and city96's GGUF files."""
    files = plan_files(build_meta_components(load_model_config("wan14b")), WeightFormat(name))
    for component, size in PUBLISHED_BYTES[name].items():
        own = {path: each for path, each in files.items() if each.component == component and "adapter" not in path}
        assert files_bytes(own) == pytest.approx(size, rel=0.02), component


def tiny_models() -> dict[str, torch.nn.Module]:
    """In sizes that follow from the shapes in single files."""
    clip = {"hidden_size": 80, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    umt5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    with torch.device("meta"):
        return {
            "vae": AutoencoderKLWan(base_dim=4),
            "text_encoder": UMT5EncoderModel(UMT5Config(**umt5)),
            "image_encoder": CLIPVisionModel(CLIPVisionConfig(**clip, image_size=28, patch_size=14)),
            "transformer": tiny_transformer(seed=0, **ONE_HEAD),
        }


@pytest.mark.parametrize("weight_format", [each for each in WeightFormat if each is not WeightFormat.safetensors])
def test_single_files_are_read_under_their_published_names(tmp_path: Path, weight_format: WeightFormat) -> None:
    models = tiny_models()
    files = plan_files(models, weight_format)
    if weight_format.quantization is not None:
        pytest.importorskip("gguf", reason="gguf is not installed")
    write_files(tmp_path, files, alignment=8)
    for path, stored in files.items():
        if path.endswith(ADAPTER_FILE):
            continue
        opened = OPENERS[stored.component](tmp_path / path)[1]
        expected = {name: tuple(models[stored.component].get_parameter(name).shape) for name in stored.parameters}
        assert opened.shapes == expected, path
        assert all(bool(opened.read(name).float().isfinite().all()) for name in expected)
    (loaded,) = (tmp_path / path for path, stored in files.items() if path.startswith("files/transformer"))
    read = [load_from_wan(loaded, PORTRAIT, torch.bfloat16, keep_quantized=keep) for keep in (False, True)]
    query = "blocks.0.attn1.to_q.weight"
    assert float(read[0].get_parameter(query).detach().float().std()) == pytest.approx(128**-0.5, rel=0.1)
    assert read[1].get_parameter(query).element_size() == 1


def test_a_run_on_meta_counts_tensors_that_are_alive_at_once() -> None:
    with torch.device("meta"):
        layer = torch.nn.Linear(100, 200, bias=False)

    def work() -> torch.Tensor:
        hidden = layer(torch.empty(10, 100))
        return layer(torch.empty(10, 100)) + hidden

    found = run_on_meta(work, [layer])
    assert found.peak_bytes == 3 * 10 * 200 * 4
    assert found.operations == 2 * 2 * 10 * 100 * 200


def test_offloading_keeps_the_running_component_on_the_device() -> None:
    weights = {
        "transformer": LoadedWeights(100, 0, onloaded_group=7),
        "text_encoder": LoadedWeights(50, 50, onloaded_group=20),
        "vae": LoadedWeights(10, 10, onloaded_group=4),
        "audio_encoder": LoadedWeights(5, 0, onloaded_group=1),
    }
    runs = {Phase.prompt: MetaRun(1, 0.0), Phase.denoise: MetaRun(2, 0.0), Phase.decode: MetaRun(3, 0.0)}

    def planned(offload: str, **settings: bool) -> list[tuple[int, int]]:
        plans = plan_phases(weights, runs, Placement("cuda", offload, **settings))
        assert [plan.phase for plan in plans] == [Phase.prompt, Phase.load, Phase.denoise, Phase.decode]
        return [(plan.device_bytes, plan.main_bytes) for plan in plans]

    assert planned("none") == [(51, 50), (115, 10), (117, 0), (118, 0)], "the text encoder is freed"
    assert planned("model") == [(51, 50), (0, 10), (102, 110), (13, 110)], "what comes back is no longer mapped"
    assert planned("group") == [(21, 50), (15, 10), (24, 100), (18, 100)], "layers wait in pinned memory"
    assert planned("group", is_pinned=False)[2] == (24, 100)
    assert planned("none", text_encoder_on_cpu=True)[0] == (0, 51)


def test_a_cpu_computes_with_mapped_weights() -> None:
    weights = {
        "text_encoder": LoadedWeights(50, 20, transient=40),
        "transformer": LoadedWeights(9, 1),
        "vae": LoadedWeights(10, 10, dequantized=100),
    }
    runs = {Phase.prompt: MetaRun(5, 0.0), Phase.decode: MetaRun(100, 0.0)}
    plans = plan_phases(weights, runs, Placement("cpu"))
    assert [plan.main_bytes for plan in plans] == [60, 11, 11 + 200]


def test_a_group_is_blocks_or_layers() -> None:
    with torch.device("meta"):
        layers = torch.nn.ModuleList([torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 4, bias=False)])
        model = torch.nn.Module()
        model.blocks, model.head = layers, torch.nn.Embedding(5, 1)
    assert onloaded_group_bytes(model, None, is_prefetched=False) == 4 * 12
    assert onloaded_group_bytes(model) == 4 * (6 + 12)
    assert onloaded_group_bytes(model, 1, is_prefetched=False) == 4 * (5 + 12)
    assert onloaded_group_bytes(model, 1) == onloaded_group_bytes(model, 8, is_prefetched=False) == 4 * (5 + 24)


LOADING = """
import sys
from pathlib import Path
from diffusers import AutoencoderKLWan
from fantasytalking.common.process_memory import PeakMemory, memory_use
from fantasytalking.encoders.loading import load_model
from fantasytalking.pipeline.loading.model_components import align_weights
import torch
from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel
for name in ("warm", "64", "8"):
    with PeakMemory() as peak:
        before = memory_use()
        vae = load_model(AutoencoderKLWan, Path(sys.argv[1]), name, "VAE", torch_dtype=torch.float32)
        align_weights({"vae": vae})
        print(peak.take().own - before.own, sum(value.nbytes for value in vae.parameters()))
"""


@linux
@pytest.mark.slow
def test_loading_takes_what_stays_and_no_more(tmp_path: Path) -> None:
    """Nothing where weights are used as they are mapped, otherwise their size and at most the largest tensor."""

    for name, width, alignment in (("warm", 8, 64), ("64", 48, 64), ("8", 48, 8)):
        with torch.device("meta"):
            vae = AutoencoderKLWan(base_dim=width)
        tensors = {key: RandomTensor.of(key, value.shape, torch.float32) for key, value in vae.state_dict().items()}
        write_shards(tmp_path / name, "diffusion_pytorch_model", tensors, alignment)
        vae.save_config(tmp_path / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LOADING, tmp_path], capture_output=True, text=True, env=environment, check=True
    )
    _, (mapped, _), (copied, stays) = (map(int, line.split()) for line in done.stdout.splitlines())
    largest = 192 * 192 * 27 * 4
    assert stays > 100e6 and mapped < 2 * largest and copied < stays + 2 * largest


LOADING_FILE = """
import sys
from pathlib import Path
import torch
from fantasytalking.common.process_memory import PeakMemory, memory_use
from fantasytalking.encoders.single_files.text_encoder import load_text_encoder_file
warm, path = map(Path, sys.argv[1:])
load_text_encoder_file(warm, torch.bfloat16)
with PeakMemory() as peak:
    before = memory_use()
    model = load_text_encoder_file(path, torch.bfloat16)
    print(peak.take().own - before.own, sum(value.nbytes for value in model.parameters()))
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("weight_format", [WeightFormat.fp8_scaled, WeightFormat.gguf_q8_0, WeightFormat.gguf_q4_0])
def test_dequantizing_takes_what_stays_and_some_rows(tmp_path: Path, weight_format: WeightFormat) -> None:
    """umT5 of half the width: its embedding alone would take half a gibibyte in float32."""
    paths = []
    for name, vocabulary, width in (("warm", 64, 64), ("whole", 65536, 2048)):
        config = UMT5Config(vocab_size=vocabulary, d_model=width, d_kv=64, d_ff=2 * width, num_layers=2, num_heads=8)
        with torch.device("meta"):
            files = plan_files({"text_encoder": UMT5EncoderModel(config)}, weight_format)
        write_files(tmp_path / name, files, alignment=8)
        paths += [tmp_path / name / path for path in files]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOADING_FILE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    peak, stays = map(int, done.stdout.split())
    assert stays > 300e6 and peak < stays + 3 * 4 * MAX_DEQUANTIZED_VALUES


@linux
def test_the_peak_of_a_block_is_seen() -> None:
    with PeakMemory() as peak:
        before = memory_use()
        assert before is not None
        with mmap.mmap(-1, 200 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1
        found = peak.take()
    assert found is not None and found.own - before.own == pytest.approx(200 << 20, rel=0.1)


@linux
@pytest.mark.slow
def test_planned_and_measured_peaks_agree(tmp_path: Path) -> None:
    """With one layer of each model, weights dominate: 4 GiB on the disk and in memory."""
    work = tmp_path / "work"
    options = ["--preset", "wan1.3b", "--layers", "1", "--size", "64x64", "--frames", "5", "--steps", "1", "--json"]
    command = [sys.executable, "-m", "fantasytalking", "rehearse", "--work", str(work), *options, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    found = json.loads(done.stdout)
    assert found["peak"] == pytest.approx(found["planned_peak"], rel=0.1)
