"""Inference from single files: the same weights as from diffusers' folders, whatever each component is stored in."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
)

from fantasytalking.checkpoints.adapter import AdapterConfig, save_adapter
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode
from fantasytalking.inference.arguments import parse_job
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import FantasyTalkingPipeline
from tests.helpers.errors import raises_input_error
from tests.helpers.repacked_files import (
    hf_text_names,
    original_clip_names,
    original_names,
    original_text_names,
    original_vae_names,
    sentencepiece_model,
    write_quantized_gguf,
)
from tests.helpers.tiny_components import tiny_audio_model, tiny_tokenizer
from tests.inference.cli_runner import run_infer

TEXT_DIM, IMAGE_DIM = 32, 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in diffusers' folders, an adapter, and the original files of both."""
    root = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {
        "vae": AutoencoderKLWan(base_dim=4),
        "text_encoder": UMT5EncoderModel(
            UMT5Config(vocab_size=260, d_model=TEXT_DIM, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
        ),
        "image_encoder": CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=IMAGE_DIM,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=1,
                image_size=28,
                patch_size=14,
                hidden_act="gelu",
            )
        ),
        "transformer": WanTransformer3DModel(
            num_attention_heads=1,
            attention_head_dim=128,
            in_channels=36,
            out_channels=16,
            text_dim=TEXT_DIM,
            freq_dim=32,
            ffn_dim=64,
            num_layers=1,
            image_dim=IMAGE_DIM,
            added_kv_proj_dim=128,
        ),
        "audio_encoder": tiny_audio_model(load_model_config("nano").portrait.audio_dim, layers=1),
    }
    for name, part in parts.items():
        part.save_pretrained(root / "base" / name)
    tiny_tokenizer().save_pretrained(root / "base/tokenizer")
    size = {"height": 28, "width": 28}
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(root / "base/image_processor")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(root / "base/audio_encoder")
    model = load_from_wan(root / "base", asdict(load_model_config("nano").portrait))
    save_adapter(model, root / "adapter", AdapterConfig(["audio", "face", "motion"], "seconds"))
    write_original_repository(root / "original", parts)
    save_file(original_names(parts["transformer"]), root / "transformer.safetensors")
    comfy = dict(hf_text_names(parts["text_encoder"]))
    comfy["spiece_model"] = torch.frombuffer(bytearray(sentencepiece_model(root)), dtype=torch.uint8)
    save_file(comfy, root / "umt5.safetensors")
    return root


def write_original_repository(root: Path, parts: dict[str, nn.Module]) -> None:
    """The layout of Wan-AI/Wan2.1-I2V-14B-720P."""
    root.mkdir()
    tensors: dict[str, Tensor] = original_names(parts["transformer"])
    shards = {f"diffusion_pytorch_model-{number + 1:05}-of-00002.safetensors": {} for number in range(2)}
    for number, (name, value) in enumerate(tensors.items()):
        list(shards.values())[number % 2][name] = value
    for file, content in shards.items():
        save_file(content, root / file)
    places = {name: file for file, content in shards.items() for name in content}
    (root / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (root / "config.json").write_text('{"_class_name": "WanModel", "num_heads": 1, "model_type": "i2v"}')
    torch.save(original_vae_names(parts["vae"]), root / "Wan2.1_VAE.pth")
    torch.save(original_text_names(parts["text_encoder"]), root / "models_t5_umt5-xxl-enc-bf16.pth")
    clip = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    torch.save(original_clip_names(parts["image_encoder"]), root / clip)
    tiny_tokenizer().save_pretrained(root / "google/umt5-xxl")


def config(folder: Path, *overrides: str) -> InferConfig:
    fixed = [f"adapter={folder / 'adapter'}", "max_text_tokens=12", "device=cpu"]
    return load_config(InferConfig, preset_path("nano", "infer"), [*fixed, *overrides])


def load(folder: Path, *overrides: str) -> FantasyTalkingPipeline:
    settings = config(folder, *overrides)
    return load_pipeline(settings, resolve_model(settings))


@pytest.fixture(scope="module")
def expected(folder: Path) -> FantasyTalkingPipeline:
    return load(folder, f"base={folder / 'base'}")


def assert_equal(found: FantasyTalkingPipeline, expected: FantasyTalkingPipeline) -> None:
    for name, part in expected.components.items():
        if isinstance(part, nn.Module):
            other = found.components[name].state_dict()
            assert part.state_dict().keys() == other.keys()
            assert all(torch.equal(value, other[key]) for key, value in part.state_dict().items()), name
            assert not found.components[name].training


def test_the_vae_uses_tiles_where_they_are_requested(folder: Path, expected: FantasyTalkingPipeline) -> None:
    tiled = load(folder, f"base={folder / 'base'}", "optimizations.vae_tiling=true")
    assert tiled.vae.use_tiling and not expected.vae.use_tiling


def test_an_original_repository_is_a_base(folder: Path, expected: FantasyTalkingPipeline) -> None:
    audio = f"audio_encoder={folder / 'base/audio_encoder'}"
    found = load(folder, f"base={folder / 'original'}", audio)
    assert_equal(found, expected)
    assert found.tokenizer("talks").input_ids == expected.tokenizer("talks").input_ids


def test_files_and_repositories_are_bases_in_python(folder: Path, expected: FantasyTalkingPipeline) -> None:
    options = {"module_config": asdict(load_model_config("nano").portrait), "text_length": 12}
    options["audio_encoder"] = folder / "base/audio_encoder"
    found = FantasyTalkingPipeline.from_base(folder / "original", folder / "adapter", **options)
    assert_equal(found, expected)
    file = {"transformer": folder / "transformer.safetensors"}
    assert_equal(
        FantasyTalkingPipeline.from_base(folder / "base", folder / "adapter", components=file, **options), found
    )
    with raises_input_error(ErrorCode.unknown_key, "components", "unet"):
        FantasyTalkingPipeline.from_base(
            folder / "base", folder / "adapter", **{**options, "components": {"unet": "a"}}
        )


def components(folder: Path, **changes: Path | None) -> list[str]:
    """Settings of a model that is made of files alone."""
    files = {
        "transformer": folder / "transformer.safetensors",
        "vae": folder / "original/Wan2.1_VAE.pth",
        "text_encoder": folder / "umt5.safetensors",
        "image_encoder": folder / "original/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        "audio_encoder": folder / "base/audio_encoder",
        **changes,
    }
    return [f"components.{name}={file}" for name, file in files.items() if file is not None]


def test_files_alone_are_a_model(
    folder: Path, expected: FantasyTalkingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fantasytalking.inference.model_sources.load_model_config", missing_base)
    settings = config(folder, "base=null", *components(folder))
    model = resolve_model(settings)
    assert model.stored.base == folder / "transformer.safetensors" and model.facts.geometry.spatial_stride == 8
    assert model.paths["components.vae"] == folder / "original/Wan2.1_VAE.pth"
    found = load_pipeline(settings, model)
    assert_equal(found, expected)
    reference = pytest.importorskip("sentencepiece").SentencePieceProcessor(str(folder / "spiece.model"))
    assert found.tokenizer("a person talks").input_ids == [*reference.encode("a person talks"), 1]


def missing_base(preset: str):
    settings = load_model_config(preset)
    settings.base = "nobody/nothing"
    return settings


def test_one_file_replaces_one_component_of_a_base(folder: Path, expected: FantasyTalkingPipeline) -> None:
    narrow = AutoencoderKLWan(base_dim=2)
    torch.save(original_vae_names(narrow), folder / "narrow.pth")
    found = load(folder, f"base={folder / 'base'}", f"components.vae={folder / 'narrow.pth'}")
    assert found.vae.config["base_dim"] == 2
    assert torch.equal(found.image_encoder.state_dict()["pre_layrnorm.bias"], expected.image_encoder.pre_layrnorm.bias)


def test_an_audio_encoder_in_one_file(folder: Path, expected: FantasyTalkingPipeline) -> None:
    state = {f"wav2vec2.{name}": value.half() for name, value in expected.audio_encoder.state_dict().items()}
    save_file(state, folder / "wav2vec2-chinese-base_fp16.safetensors")
    file = f"components.audio_encoder={folder / 'wav2vec2-chinese-base_fp16.safetensors'}"
    found = load(folder, f"base={folder / 'base'}", "audio_encoder=facebook/nothing", file)
    assert not found.audio_processor.do_normalize
    for name, value in found.audio_encoder.state_dict().items():
        assert torch.equal(value, state[f"wav2vec2.{name}"].float()), name


@pytest.mark.parametrize("name", ["vae", "text_encoder", "image_encoder", "audio_encoder"])
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    given = components(folder, **{name: None})
    settings = config(folder, f"base={folder / 'transformer.safetensors'}", "audio_encoder=null", *given)
    with raises_input_error(ErrorCode.missing_weights, f"components.{name}"):
        resolve_model(settings)


def test_a_text_encoder_without_tokenizer_needs_one(folder: Path) -> None:
    given = components(folder, text_encoder=folder / "original/models_t5_umt5-xxl-enc-bf16.pth")
    base = f"base={folder / 'transformer.safetensors'}"
    with raises_input_error(ErrorCode.missing_weights, "components.tokenizer"):
        resolve_model(config(folder, base, *given))
    tokenizer = f"components.tokenizer={folder / 'original/google/umt5-xxl'}"
    assert "tokenizer" in resolve_model(config(folder, base, *given, tokenizer)).stored.components


def test_a_saved_pipeline_has_its_own_components(folder: Path) -> None:
    settings = load_config(InferConfig, preset_path("nano", "infer"), components(folder)[1:2])
    with raises_input_error(ErrorCode.conflict, "components.vae"):
        resolve_model(settings)


def test_a_saved_pipeline_stores_no_quantized_weights() -> None:
    settings = load_config(InferConfig, preset_path("nano", "infer"), ["optimizations.quantization=stored"])
    with raises_input_error(ErrorCode.conflict, "optimizations.quantization", "stored"):
        resolve_model(settings)


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with raises_input_error(ErrorCode.missing_weights, "components.vae", "nowhere.pth"):
        resolve_model(config(folder, f"base={folder / 'base'}", "components.vae=nowhere.pth"))


def test_components_on_the_command_line(folder: Path) -> None:
    file = folder / "original/Wan2.1_VAE.pth"
    inputs = ["--image", "data/demo/portrait.png", "--audio", "data/demo/speech.wav"]
    job = parse_job([*inputs, "--component", f"vae={file}", "--component", "tokenizer=x=y"], "test")
    assert job.config.components.given() == {"vae": str(file), "tokenizer": "x=y"}
    for wrong in ("vae", "vae=", "lips=file"):
        with raises_input_error(ErrorCode.invalid_choice, "--component", wrong):
            parse_job([*inputs, "--component", wrong], "test")


def wan22_transformer(seed: int, **changes: int) -> WanTransformer3DModel:
    """A tiny transformer without CLIP tokens, as those of Wan 2.2."""
    torch.manual_seed(seed)
    sizes = {"num_attention_heads": 1, "attention_head_dim": 128, "in_channels": 36, "out_channels": 16}
    sizes |= {"text_dim": TEXT_DIM, "freq_dim": 32, "ffn_dim": 64, "num_layers": 1}
    return WanTransformer3DModel(**{**sizes, **changes})


def test_two_experts_are_two_files_or_the_folders_of_a_repository(folder: Path, tmp_path: Path) -> None:
    """Wan2.2-I2V-A14B, whose single files do not state the boundary."""
    experts = {"high": wan22_transformer(1), "low": wan22_transformer(2)}
    for file in ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google"):
        (tmp_path / file).symlink_to(folder / "original" / file)
    for name, part in experts.items():
        (tmp_path / f"{name}_noise_model").mkdir()
        weights = tmp_path / f"{name}_noise_model/diffusion_pytorch_model.safetensors"
        save_file(original_names(part), weights)
        (weights.parent / "config.json").write_text('{"_class_name": "WanModel", "num_heads": 1}')
        model = load_from_wan(weights, asdict(load_model_config("nano").portrait))
        described = AdapterConfig(["audio", "face", "motion"], "seconds", expert=name)
        save_adapter(model, tmp_path / "adapters" / name, described)
    adapters = [f"adapter={tmp_path / 'adapters/high'}", f"adapter_2={tmp_path / 'adapters/low'}"]
    audio = f"audio_encoder={folder / 'base/audio_encoder'}"
    files = [f"components.vae={folder / 'original/Wan2.1_VAE.pth'}"]
    files += [f"components.text_encoder={folder / 'umt5.safetensors'}"]
    for component, name in (("transformer", "high"), ("transformer_2", "low")):
        weights = tmp_path / f"{name}_noise_model/diffusion_pytorch_model.safetensors"
        files.append(f"components.{component}={weights}")
    base = f"base={tmp_path / 'high_noise_model/diffusion_pytorch_model.safetensors'}"
    for given in ([f"base={tmp_path}"], [base, *files]):
        found = load(folder, audio, *adapters, *given)
        assert found.config.boundary_ratio == 0.9 and found.image_encoder is None
        for part, expected in zip((found.transformer, found.transformer_2), experts.values(), strict=True):
            query = expected.blocks[0].attn1.to_q.weight
            assert torch.equal(part.blocks[0].attn1.to_q.weight, query)


def test_a_text_to_video_file_is_refused(folder: Path, tmp_path: Path) -> None:
    save_file(original_names(wan22_transformer(0, in_channels=16)), tmp_path / "t2v.safetensors")
    settings = config(folder, f"base={folder / 'base'}", f"components.transformer={tmp_path / 't2v.safetensors'}")
    with raises_input_error(ErrorCode.unsupported, "base", str(tmp_path / "t2v.safetensors")):
        resolve_model(settings)


def test_a_vae_file_is_that_of_the_transformer(folder: Path, tmp_path: Path) -> None:
    wide = wan22_transformer(0, in_channels=48, out_channels=48)
    save_file(original_names(wide), tmp_path / "wan2.2_ti2v_5B.safetensors")
    files = components(folder, transformer=tmp_path / "wan2.2_ti2v_5B.safetensors")
    with raises_input_error(ErrorCode.conflict, "components.vae", 48):
        resolve_model(config(folder, f"base={folder / 'base'}", *files))


def test_a_video_from_files_alone_is_reproduced(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """GGUF that stays quantized, a LoRA beside it and single files, by the settings of the 14B model in four steps."""
    write_quantized_gguf(tmp_path / "wan.gguf", load_file(folder / "transformer.safetensors"))
    layer = "diffusion_model.blocks.0.ffn.2"
    lora = {f"{layer}.lora_down.weight": torch.ones(1, 64), f"{layer}.lora_up.weight": torch.ones(128, 1) / 64}
    save_file(lora | {f"{layer}.diff_b": torch.ones(128)}, tmp_path / "lora.safetensors")
    inputs = ["--image", "data/demo/portrait.png", "--audio", "data/demo/speech.wav", "--size", "32x32"]
    inputs += ["--config", "configs/wan14b/fast.yaml", "--max-seconds", "0.2", "--output", tmp_path / "video.mp4"]
    inputs += [f"--component={entry.removeprefix('components.')}" for entry in components(folder)[1:]]
    small = ["model=nano", f"base={tmp_path / 'wan.gguf'}", f"adapter={folder / 'adapter'}", "face_scale=0"]
    small += [
        "optimizations.quantization=stored",
        "window_frames=9",
        "overlap_frames=4",
        "fps=25",
        "dtype=float32",
        "max_text_tokens=12",
    ]
    ended = run_infer(capsys, *inputs, *small, f"optimizations.few_step_lora={tmp_path / 'lora.safetensors'}")
    assert ended.code == 0, ended.err
    hashes = json.loads((tmp_path / "video.json").read_text())["hashes"]
    assert {"base", "components.vae", "components.text_encoder", "components.image_encoder", "lora"} <= hashes.keys()
    again = run_infer(capsys, "--reproduce", tmp_path / "video.json", "--output", tmp_path / "again.mp4")
    assert again.code == 0 and "the same bits" in again.out, again.err
