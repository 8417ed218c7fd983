"""Model folders of others: no code of theirs runs, and their configurations cannot ask for any size."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.audio_features import AudioEncoder
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.loading import load_component, load_model
from fantasytalking.encoders.model_folder import weights_bounded_by_files
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from tests.helpers.errors import raises_input_error

CODE = "from pathlib import Path\nPath({path!r}).write_text('ran')\nfrom transformers import PreTrainedTokenizerFast\n"


@pytest.fixture
def folder(components: Path, tmp_path: Path) -> Path:
    """A components folder that a test may spoil; weights are linked."""
    return Path(shutil.copytree(components, tmp_path / "model", copy_function=link_weights))


def link_weights(source: str, target: str) -> None:
    if source.endswith((".safetensors", ".onnx")):
        os.link(source, target)
    else:
        shutil.copy(source, target)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **values}))


LOADERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "tokenizer": ("tokenizer/tokenizer_config.json", TextEncoder.from_pretrained),
    "tokenizer's model": ("tokenizer/config.json", TextEncoder.from_pretrained),
    "text encoder": ("text_encoder/config.json", TextEncoder.from_pretrained),
    "image processor": ("image_processor/preprocessor_config.json", ImageEncoder.from_pretrained),
    "image encoder": ("image_encoder/config.json", ImageEncoder.from_pretrained),
    "audio processor": ("audio_encoder/preprocessor_config.json", lambda path: audio_encoder(path)),
    "audio encoder": ("audio_encoder/config.json", lambda path: audio_encoder(path)),
    "VAE": ("vae/config.json", VideoAutoencoder.from_pretrained),
}
KERNELS = {
    "_attn_implementation": "someone/kernel",
    "attn_implementation": "someone/kernel",
    "experts_implementation": "someone/kernel",
    "use_kernels": True,
}


def audio_encoder(folder: Path) -> AudioEncoder:
    return load_audio_encoder(folder, subfolder="audio_encoder")


@pytest.mark.parametrize("component", LOADERS)
def test_no_component_runs_code_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    file, load = LOADERS[component]
    path = folder / file
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor", "AutoFeatureExtractor"), "own.Own")
    change(path, auto_map={**names, "AutoTokenizer": ["own.Own", "own.Own"]})
    (path.parent / "own.py").write_text(CODE.format(path=str(tmp_path / "ran")) + "class Own: pass\n")
    answers = io.StringIO("y\n" * 20)
    monkeypatch.setattr(sys, "stdin", answers)
    with raises_input_error(ErrorCode.unsupported, "auto_map") as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert answers.tell() == 0 and not (tmp_path / "ran").exists()


def test_the_library_is_told_as_well(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check of configurations missed would still not run: transformers never asks."""
    change(folder / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    (folder / "tokenizer" / "own.py").write_text(CODE.format(path=str(tmp_path / "ran")) + "class Own: pass\n")
    monkeypatch.setattr("fantasytalking.encoders.loading.check_model_folder", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    load_component(AutoTokenizer.from_pretrained, folder, "tokenizer", "text tokenizer")
    assert sys.stdin.tell() == 0 and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", KERNELS)
def test_kernels_of_the_hub_are_refused_wherever_they_are_named(folder: Path, key: str) -> None:
    for nesting in ({key: KERNELS[key]}, {"sub_config": {"list": [{key: KERNELS[key]}]}}):
        change(folder / "text_encoder" / "config.json", **nesting)
        with raises_input_error(ErrorCode.unsupported) as error:
            TextEncoder.from_pretrained(folder)
        assert str(error.value.field).endswith(key)


def test_a_named_attention_of_transformers_is_replaced_by_ours(folder: Path) -> None:
    change(folder / "text_encoder" / "config.json", _attn_implementation="eager")
    model = load_model(UMT5EncoderModel, folder, "text_encoder", "text encoder")
    assert model.config._attn_implementation == "sdpa"


def test_an_adapter_does_not_redirect_to_another_model(folder: Path) -> None:
    change(folder / "text_encoder" / "adapter_config.json", base_model_name_or_path="someone/else", peft_type="LORA")
    with raises_input_error(ErrorCode.unsupported, "adapter_config.json"):
        TextEncoder.from_pretrained(folder)


@pytest.mark.parametrize("method", ["mxfp4", "gptq", None, ["torchao"]])
def test_quantizations_that_fetch_kernels_are_refused(folder: Path, method: object) -> None:
    change(folder / "text_encoder" / "config.json", quantization_config={"quant_method": method})
    with raises_input_error(ErrorCode.unsupported, "quantization_config"):
        TextEncoder.from_pretrained(folder)


def test_a_quantization_whose_library_is_missing_ends_in_one_line(folder: Path) -> None:
    change(
        folder / "text_encoder" / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": 1}
    )
    with raises_input_error(ErrorCode.missing_weights, "text encoder") as error:
        TextEncoder.from_pretrained(folder)
    assert "\n" not in str(error.value)


OVERSIZED: dict[str, tuple[str, dict[str, Any]]] = {
    "a billion layers": ("text encoder", {"num_layers": 10**9}),
    "many layers": ("text encoder", {"num_layers": 10**6}),
    "a width of ten million": ("text encoder", {"d_model": 10**7}),
    "a width of a million": ("text encoder", {"d_model": 10**6}),
    "a vocabulary": ("text encoder", {"vocab_size": 2**20, "d_model": 2**20}),
    "a billion labels": ("image encoder", {"num_labels": 10**9}),
    "image layers": ("image encoder", {"num_hidden_layers": 10**6}),
    "an image of any side": ("image encoder", {"image_size": 2**20, "patch_size": 1}),
    "audio layers": ("audio encoder", {"num_hidden_layers": 10**6}),
    "audio width": ("audio encoder", {"conv_dim": [2**20] * 7}),
    "VAE width": ("VAE", {"base_dim": 2**20}),
    "VAE blocks": ("VAE", {"num_res_blocks": 10**6}),
    "infinite": ("text encoder", {"dropout_rate": float("inf")}),
    "no number": ("text encoder", {"layer_norm_epsilon": float("nan")}),
    "hundreds of digits": ("text encoder", {"num_layers": 10**250}),
}


@pytest.mark.parametrize("case", OVERSIZED)
def test_a_model_is_never_larger_than_its_files(folder: Path, case: str) -> None:
    component, values = OVERSIZED[case]
    file, load = LOADERS[component]
    change(folder / file, **values)
    with pytest.raises(InputError) as error:
        load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


WRONG_TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("text encoder", {"num_layers": "many"}),
    "a list": ("image encoder", {"hidden_size": [32]}),
    "negative heads": ("image encoder", {"num_attention_heads": -1}),
    "no layers": ("image encoder", {"num_hidden_layers": 0}),
    "no kernels": ("audio encoder", {"conv_kernel": []}),
    "a truth value": ("audio encoder", {"mask_time_prob": True}),
    "no multiples": ("VAE", {"dim_mult": []}),
    "no patch": ("VAE", {"patch_size": 0}),
    "a factor": ("image processor", {"rescale_factor": "x"}),
    "no size": ("image processor", {"size": None}),
    "no crop": ("image processor", {"do_center_crop": False}),
    "no distance": ("text encoder", {"relative_attention_max_distance": 0}),
}


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_values_of_other_types_end_in_one_line(folder: Path, case: str) -> None:
    component, values = WRONG_TYPES[case]
    file, load = LOADERS[component]
    change(folder / file, **values)
    with pytest.raises(InputError) as error:
        load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900


def test_components_of_the_hub_are_checked_alike(
    components: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of the hub, whose files are links to blobs outside the snapshot."""
    repository = tmp_path / "models--somebody--model"
    for part in ("tokenizer", "text_encoder"):
        (repository / "snapshots" / "abc" / part).mkdir(parents=True)
        for file in (components / part).iterdir():
            (repository / "snapshots" / "abc" / part / file.name).symlink_to(file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert TextEncoder.from_pretrained("somebody/model").model.config.num_layers == 2
    config = repository / "snapshots" / "abc" / "text_encoder" / "config.json"
    values = json.loads(config.read_text())
    config.unlink()
    change(config, **values, auto_map={"AutoModel": "own.Own"})
    with raises_input_error(ErrorCode.unsupported, "auto_map"):
        TextEncoder.from_pretrained("somebody/model")


def test_only_the_loading_thread_is_bounded(tmp_path: Path) -> None:
    with weights_bounded_by_files(tmp_path, "model"), torch.device("meta"):
        nn.Linear(1000, 1000)
        with raises_input_error(ErrorCode.shape_mismatch, "model", (10**5, 10**5)):
            nn.Linear(10**5, 10**5)
    with torch.device("meta"):
        nn.Linear(10**5, 10**5)


def test_pipes_are_refused_instead_of_waited_for(folder: Path) -> None:
    path = folder / "text_encoder" / "config.json"
    path.unlink()
    os.mkfifo(path)
    with raises_input_error(ErrorCode.unsupported, "config.json"):
        TextEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"latents_std": [1.0] * 15},
        {"latents_std": [0.0] * 16},
        {"latents_std": ["1"] * 16},
        {"latents_mean": None},
        {"latents_mean": [[0.0]] * 16},
        {"scale_factor_temporal": 0},
        {"scale_factor_spatial": "8"},
    ],
)
def test_statistics_and_strides_of_the_vae_are_checked(folder: Path, values: dict[str, Any]) -> None:
    change(folder / "vae" / "config.json", **values)
    with raises_input_error(ErrorCode.malformed_file, next(iter(values))):
        VideoAutoencoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "values", [{"size": {"shortest_edge": 10**6}}, {"crop_size": {"height": 64, "width": 32}}, {"size": {"height": 1}}]
)
def test_the_image_processor_fits_the_image_encoder(folder: Path, values: dict[str, Any]) -> None:
    change(folder / "image_processor" / "preprocessor_config.json", **values)
    with pytest.raises(InputError) as error:
        ImageEncoder.from_pretrained(folder)
    assert error.value.field == "image processor" and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{}", "[]", '{"model": {"type": "X"}, "added_tokens": []}', "no JSON"])
def test_a_damaged_vocabulary_ends_in_one_line(folder: Path, text: str) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text(text)
    with pytest.raises(InputError) as error:
        TextEncoder.from_pretrained(folder)
    assert error.value.field == "text tokenizer" and "\n" not in str(error.value)
