"""VAE, umT5 and CLIP in single files: equal, bit for bit, to the same weights in diffusers' folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.single_files.image_encoder import load_image_encoder_file
from fantasytalking.encoders.single_files.text_encoder import (
    has_tokenizer,
    load_text_encoder_file,
    load_tokenizer_file,
)
from fantasytalking.encoders.single_files.vae import load_vae_file
from fantasytalking.encoders.single_files.wav2vec_file import is_wav2vec_file, load_wav2vec_file
from fantasytalking.encoders.wan import ImageEncoder
from fantasytalking.models.stored_linear import stored_weight_names
from tests.helpers.errors import raises_input_error
from tests.helpers.repacked_files import (
    hf_text_names,
    original_clip_names,
    original_text_names,
    original_vae_names,
    published_wav2vec_names,
    scaled_float8,
    sentencepiece_model,
    write_quantized_gguf,
)


def write(tensors: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


def assert_same_state(found: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    state = found.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value) and state[name].dtype is value.dtype, name


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_vae_file(vae: AutoencoderKLWan, tmp_path: Path, prefix: str, suffix: str) -> None:
    tensors = {prefix + name: value for name, value in original_vae_names(vae).items()}
    found = load_vae_file(write(tensors, tmp_path / f"vae{suffix}"))
    assert_same_state(found, vae.state_dict())
    assert not found.training and found.config["latents_std"] == vae.config["latents_std"]
    video = torch.rand(1, 3, 5, 16, 16)
    with torch.no_grad():
        assert torch.equal(found.encode(video).latent_dist.mode(), vae.encode(video).latent_dist.mode())


def test_a_vae_with_a_pruned_decoder(tmp_path: Path) -> None:
    pruned = AutoencoderKLWan(base_dim=4, decoder_base_dim=2)
    found = load_vae_file(write(original_vae_names(pruned), tmp_path / "vae.safetensors"))
    assert_same_state(found, pruned.state_dict())


def test_another_autoencoder_is_refused(vae: AutoencoderKLWan, tmp_path: Path) -> None:
    taehv = {"encoder.0.weight": torch.ones(64, 3, 3, 3), "decoder.1.weight": torch.ones(256, 16, 3, 3)}
    with raises_input_error(ErrorCode.shape_mismatch, "encoder.conv_in.weight"):
        load_vae_file(write(taehv, tmp_path / "taew2_1.safetensors"))
    more = original_vae_names(vae) | {"decoder.extra.weight": torch.ones(1)}
    with raises_input_error(ErrorCode.shape_mismatch, "decoder.extra.weight"):
        load_vae_file(write(more, tmp_path / "more.pth"))
    wide = AutoencoderKLWan(base_dim=4, z_dim=48, latents_mean=[0.0] * 48, latents_std=[1.0] * 48)
    with raises_input_error(ErrorCode.shape_mismatch):  # the channels of another network
        load_vae_file(write(original_vae_names(wide), tmp_path / "wide.pth"))


@pytest.fixture(scope="module")
def text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(1)
    return UMT5EncoderModel(UMT5Config(vocab_size=70, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)).eval()


@pytest.mark.parametrize("names", [original_text_names, hf_text_names])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_text_encoder_file(text_encoder: UMT5EncoderModel, tmp_path: Path, names, dtype: torch.dtype) -> None:
    text_encoder.save_pretrained(tmp_path / "folder")
    folder = UMT5EncoderModel.from_pretrained(tmp_path / "folder", dtype=dtype).eval()
    found = load_text_encoder_file(write(names(text_encoder), tmp_path / "umt5.pth"), dtype)
    assert_same_state(found, folder.state_dict())
    assert found.shared.weight is found.encoder.embed_tokens.weight
    ids = torch.arange(11)[None]
    with torch.no_grad():
        assert torch.equal(found(ids).last_hidden_state, folder(ids).last_hidden_state)


def test_comfys_text_encoder_has_scales_and_a_tokenizer(text_encoder: UMT5EncoderModel, tmp_path: Path) -> None:
    spiece = sentencepiece_model(tmp_path)
    stored, expected = scaled_float8(hf_text_names(text_encoder))
    stored["spiece_model"] = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    path = write(stored, tmp_path / "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
    found = load_text_encoder_file(path, torch.float32)
    for name, value in expected.items():
        assert torch.equal(found.get_parameter(name), value.float()), name
    assert has_tokenizer(path)
    reference = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=spiece)
    for text in ("the person smiles to the other camera", "ﬁve ＡＢ Ⅳ q́ 他", "Listens, and  talks!"):
        for tokenizer in (load_tokenizer_file(path), load_tokenizer_file(tmp_path / "spiece.model")):
            assert tokenizer(text).input_ids == [*reference.encode(text), 1], "ends with </s>"


def test_a_tokenizer_with_byte_fallback(tmp_path: Path) -> None:
    spiece = sentencepiece_model(tmp_path, byte_fallback=True, vocab_size=320)
    reference = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=spiece)
    text = "the camera 🦙 smiles"
    assert load_tokenizer_file(tmp_path / "spiece.model")(text).input_ids == [*reference.encode(text), 1]


@pytest.mark.parametrize("damage", ["cut", "noise", "trie", "text", "bpe"])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, damage: str) -> None:
    model = sentencepiece_model(tmp_path, **({"model_type": "bpe"} if damage == "bpe" else {}))
    trie = model.index(b"nmt_nfkc") + 16  # after the name, the key and the length of the map and of the trie
    spoilt = {
        "cut": model[:-1000],
        "noise": bytes(range(256)) * 8,
        "trie": model[: trie + 64] + bytes([255, 255, 255, 127]) * 8 + model[trie + 96 :],
        "text": model[:-400] + b"\xff" * 300 + model[-100:],
        "bpe": model,
    }
    (tmp_path / "spiece.model").write_bytes(spoilt[damage])
    with raises_input_error(ErrorCode.malformed_file, "spiece_model"):
        load_tokenizer_file(tmp_path / "spiece.model")


def test_a_text_encoder_in_llama_cpps_names(text_encoder: UMT5EncoderModel, tmp_path: Path) -> None:
    parts = {"norm1": "attn_norm", "norm2": "ffn_norm", "pos_embedding.embedding": "attn_rel_b"}
    parts |= {f"attn.{kind}": f"attn_{kind}" for kind in "qkvo"}
    parts |= {"ffn.gate.0": "ffn_gate", "ffn.fc1": "ffn_up", "ffn.fc2": "ffn_down"}
    ends = {"token_embedding": "token_embd", "norm": "enc.output_norm"}
    named = {}
    for name, value in original_text_names(text_encoder).items():
        stem = name.removesuffix(".weight")
        _, _, rest = stem.partition(".")
        new = ends.get(stem) or f"enc.blk.{rest.split('.')[0]}.{parts[rest.partition('.')[2]]}"
        named[f"{new}.weight"] = value
    expected = write_quantized_gguf(tmp_path / "umt5.gguf", named)
    found = load_text_encoder_file(tmp_path / "umt5.gguf")
    query = found.encoder.block[1].layer[0].SelfAttention.q.weight
    assert torch.equal(query, expected["enc.blk.1.attn_q.weight"])


def test_without_a_tokenizer_the_cure_is_named(text_encoder: UMT5EncoderModel, tmp_path: Path) -> None:
    path = write(original_text_names(text_encoder), tmp_path / "umt5.pth")
    assert not has_tokenizer(path)
    with raises_input_error(ErrorCode.missing_weights, "spiece_model"):
        load_tokenizer_file(path)
    broken = write({"spiece_model": torch.zeros(40, dtype=torch.uint8)}, tmp_path / "broken.safetensors")
    with raises_input_error(ErrorCode.malformed_file, "spiece_model"):
        load_tokenizer_file(broken)


@pytest.fixture(scope="module")
def clip() -> CLIPVisionModel:
    torch.manual_seed(2)
    sizes = {"hidden_size": 160, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14, hidden_act="gelu")).eval()


def hf_clip_names(model: CLIPVisionModel) -> dict[str, Tensor]:
    named = {f"vision_model.{name}": value for name, value in model.state_dict().items()}
    return named | {
        "visual_projection.weight": torch.ones(3, 160),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }


def bare_clip_names(model: CLIPVisionModel) -> dict[str, Tensor]:
    named = original_clip_names(model)
    return {name.removeprefix("visual."): value for name, value in named.items() if name.startswith("visual.")}


@pytest.mark.parametrize("names", [original_clip_names, bare_clip_names, hf_clip_names])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_encoder_file(clip: CLIPVisionModel, tmp_path: Path, names, dtype: torch.dtype) -> None:
    clip.save_pretrained(tmp_path / "folder/image_encoder")
    size = {"height": 28, "width": 28}
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    processor.save_pretrained(tmp_path / "folder/image_processor")
    folder = ImageEncoder.from_pretrained(tmp_path / "folder", dtype=dtype)
    found = ImageEncoder(*load_image_encoder_file(write(names(clip), tmp_path / "clip.pth"), dtype))
    assert_same_state(found.model, folder.model.state_dict())
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    assert torch.equal(found.encode(image), folder.encode(image))


def test_another_image_encoder_is_refused(clip: CLIPVisionModel, tmp_path: Path) -> None:
    named = original_clip_names(clip)
    named["visual.transformer.0.attn.to_qkv.weight"] = torch.ones(100, 160)
    with raises_input_error(ErrorCode.shape_mismatch):
        load_image_encoder_file(write(named, tmp_path / "clip.pth"))
    wide = CLIPVisionModel(
        CLIPVisionConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    )
    with raises_input_error(ErrorCode.shape_mismatch, value=64):
        load_image_encoder_file(write(hf_clip_names(wide), tmp_path / "wide.safetensors"))


def test_thousands_of_layers_are_refused_before_a_model_is_built(tmp_path: Path) -> None:
    named = {f"blocks.{number}.norm1.weight": torch.ones(1) for number in range(300)}
    named |= {"token_embedding.weight": torch.ones(4, 2), "blocks.0.attn.q.weight": torch.ones(2, 2)}
    named |= {
        "blocks.0.pos_embedding.embedding.weight": torch.ones(4, 1),
        "blocks.0.ffn.gate.0.weight": torch.ones(3, 2),
    }
    with raises_input_error(ErrorCode.shape_mismatch, "encoder.block.", 300):
        load_text_encoder_file(write(named, tmp_path / "umt5.pth"))


@pytest.fixture(scope="module")
def wav2vec() -> Wav2Vec2Model:
    torch.manual_seed(3)
    return Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=48,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        )
    ).eval()


def states(model: Wav2Vec2Model, extractor: Wav2Vec2FeatureExtractor, seconds: float = 0.3) -> Tensor:
    sound = np.sin(np.arange(int(16_000 * seconds)) / 7).astype(np.float32) * 0.1
    inputs = extractor(sound, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        return model(inputs).last_hidden_state


def test_a_folder_with_a_torch_file(wav2vec: Wav2Vec2Model, tmp_path: Path) -> None:
    """TencentGameMate/chinese-wav2vec2-base."""
    wav2vec.config.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    torch.save(published_wav2vec_names(wav2vec, "wav2vec2."), tmp_path / "pytorch_model.bin")
    assert is_wav2vec_file(tmp_path)
    model, extractor = load_wav2vec_file(tmp_path)
    assert extractor.do_normalize and not model.training
    assert torch.equal(states(model, extractor), states(wav2vec, extractor))


@pytest.mark.parametrize("form", ["plain", "prefix", "fused", "ctc"])
def test_a_file_without_a_configuration(wav2vec: Wav2Vec2Model, tmp_path: Path, caplog, form: str) -> None:
    """ComfyUI's wav2vec2-chinese-base_fp16 and other repacks."""
    named = published_wav2vec_names(wav2vec, "wav2vec2." if form in ("prefix", "ctc") else "", torch.float16)
    if form == "ctc":
        named["lm_head.weight"] = torch.ones(3, 64)
    if form == "fused":
        conv = "encoder.pos_conv_embed.conv"
        named.pop(f"{conv}.weight_g"), named.pop(f"{conv}.weight_v")
        named[f"{conv}.weight"] = wav2vec.encoder.pos_conv_embed.conv.weight.detach().half()
    model, extractor = load_wav2vec_file(write(named, tmp_path / "wav2vec2.safetensors"))
    assert extractor.do_normalize is (form == "ctc") and "states no configuration" in caplog.text
    reference = Wav2Vec2Model(wav2vec.config).eval()
    reference.load_state_dict({name: value.half().float() for name, value in wav2vec.state_dict().items()})
    tolerance = 2e-3 if form == "fused" else 0
    torch.testing.assert_close(states(model, extractor), states(reference, extractor), rtol=0, atol=tolerance)


def test_another_audio_encoder_is_refused(wav2vec: Wav2Vec2Model, tmp_path: Path) -> None:
    with raises_input_error(ErrorCode.shape_mismatch):
        load_wav2vec_file(write({"model.encoder.embed_positions.weight": torch.ones(4, 2)}, tmp_path / "whisper.bin"))
    named = published_wav2vec_names(wav2vec)
    named.pop("encoder.layers.1.attention.q_proj.bias")
    with raises_input_error(ErrorCode.shape_mismatch, "encoder.layers.1.attention.q_proj.bias"):
        load_wav2vec_file(write(named, tmp_path / "fewer.safetensors"))
    wav2vec.config.save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder/config.json").read_text()) | {"num_hidden_layers": 10**6}
    (tmp_path / "folder/config.json").write_text(json.dumps(config))
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "folder")
    torch.save(published_wav2vec_names(wav2vec), tmp_path / "folder/pytorch_model.bin")
    with raises_input_error(ErrorCode.out_of_range, "num_hidden_layers", 10**6):
        load_wav2vec_file(tmp_path / "folder")


@pytest.mark.parametrize("kind", ["scaled", "Q8_0"])
def test_a_text_encoder_that_stays_quantized(text_encoder: UMT5EncoderModel, tmp_path: Path, kind: str) -> None:
    """The layers before which transformers casts to the weight's dtype are dequantized."""
    path = tmp_path / ("umt5.gguf" if kind == "Q8_0" else "umt5.safetensors")
    if kind == "Q8_0":
        write_quantized_gguf(path, hf_text_names(text_encoder))
    else:
        save_file(scaled_float8(hf_text_names(text_encoder))[0], path)
    kept, dense = load_text_encoder_file(path, torch.float32, True), load_text_encoder_file(path)
    names = stored_weight_names(kept)
    assert len(names) == 2 * 6 and not any(".wo." in name for name in names)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        found, expected = (each(tokens).last_hidden_state for each in (kept, dense))
    tolerance = 0.0 if kind == "scaled" else torch.finfo(torch.float16).eps
    assert (found - expected).norm() <= tolerance * expected.norm()
