"""Files of the Wan 2.1 and FantasyTalking world, small but with their true names and dtypes, and whether they are read.

Each function writes one file (or what is published together), reads it through the door that users have, and compares
every value with what it is by hand. `docs/make_formats.py` prints the outcomes as a table.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from fantasytalking.checkpoints.adapter_formats import load_any_adapter
from fantasytalking.checkpoints.lora_fusion import fuse_lora_file
from fantasytalking.checkpoints.released_audio import to_released_audio
from fantasytalking.checkpoints.released_portrait import to_released_expression
from fantasytalking.common.errors import InputError
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.single_files.image_encoder import load_image_encoder_file
from fantasytalking.encoders.single_files.text_encoder import load_text_encoder_file, load_tokenizer_file
from fantasytalking.encoders.single_files.vae import load_vae_file
from fantasytalking.encoders.vae_config import WAN22_VAE
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.wan_loading import adapter_module_of, load_from_wan
from tests.helpers import repacked_files as repacked
from tests.helpers.tiny_audio_encoders import save_audio_encoder
from tests.helpers.tiny_transformer import BASE, PORTRAIT, tiny_transformer

READ = "read"
EXPRESSION = ExpressionModuleConfig((3, 2, 4, 5), (0, 0, 2, 3), token_dim=16, width=12, depth=1, heads=2)


@dataclass(frozen=True)
class PublishedFormat:
    """One row of the table."""

    file: str
    setting: str
    """Where a user names the file."""
    read: Callable[[Path], None]
    """Writes the file into an empty folder, reads it, and compares every value."""

    def outcome(self, folder: Path) -> str:
        """Returns `READ`, or how the file is refused: the cure of the message."""
        try:
            self.read(folder)
        except InputError as error:
            return f"refused: {str(error).rpartition('; ')[2]}"
        return READ


FORMATS: list[PublishedFormat] = []


def published(file: str, setting: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Adds a function to `FORMATS`."""

    def add(read: Callable[[Path], None]) -> Callable[[Path], None]:
        FORMATS.append(PublishedFormat(file, setting, read))
        return read

    return add


def assert_state(module: nn.Module, expected: dict[str, Tensor]) -> None:
    state = module.state_dict()
    for name, value in expected.items():
        assert torch.equal(state[name].float(), value.float()), name


# Adapters


def _audio() -> dict[str, Tensor]:
    return repacked.audio_of(tiny_transformer(seed=5))


def _assert_audio(path: Path) -> None:
    model = tiny_transformer(seed=9)
    load_any_adapter(model, path)
    assert_state(model, _audio())


@published("`fantasytalking_model.ckpt` (acvlab)", "`adapter`")
def _(folder: Path) -> None:
    _assert_audio(repacked.acvlab(to_released_audio(_audio()), folder))


@published("`fantasytalking_fp16.safetensors` (Kijai): projector in F32, blocks in F16", "`adapter`")
def _(folder: Path) -> None:
    _assert_audio(repacked.kijai(to_released_audio(_audio()), folder))


@published("`wan2.1_fantasy_speaking_14B_bf16` with `fantasy_proj_model.safetensors` (Wan2GP)", "`adapter`")
def _(folder: Path) -> None:
    _assert_audio(repacked.wan2gp(to_released_audio(_audio()), folder))


def _expression() -> dict[str, Tensor]:
    state = tiny_transformer(seed=4, expression=EXPRESSION.to_dict()).state_dict()
    return {name: value.half().float() for name, value in state.items() if adapter_module_of(name) == "expression"}


def _assert_expression(path: Path) -> None:
    model = tiny_transformer(seed=9)
    load_any_adapter(model, path)
    assert_state(model, _expression())


@published("`fantasyportrait_model.ckpt` (acvlab)", "`expression_adapter`")
def _(folder: Path) -> None:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in to_released_expression(_expression(), flat=False).items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    torch.save(parts, folder / "fantasyportrait_model.ckpt")
    _assert_expression(folder / "fantasyportrait_model.ckpt")


@published(
    "`Wan2_1_FantasyPortrait_fp16` (Kijai) with `pd_fpg.*`: adapter and expression encoder",
    "`expression_adapter`, `expression_encoder`",
)
def _(folder: Path) -> None:
    path, _, network = repacked.portrait_with_encoder(_expression(), folder)
    _assert_expression(path)
    weights = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    assert_state(ExpressionEncoder.from_pretrained(path).network, weights)


# Transformers


def _wan() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return repacked.original_names(WanTransformer3DModel(**{**BASE, **repacked.ONE_HEAD}))


def _assert_wan(path: Path, expected: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    names = WanTransformer3DModel(**{**BASE, **repacked.ONE_HEAD}).state_dict()
    found = load_from_wan(path, PORTRAIT, torch.float32)
    assert_state(found, {ours: expected[original] for ours, original in zip(names, expected, strict=True)})


@published("Wan 2.1 in the original names, bf16 or fp16 (Wan-AI, Comfy-Org, Kijai)", "`components.transformer`")
def _(folder: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        tensors = {name: value.to(dtype) for name, value in _wan().items()}
        for prefix in ("", "model.diffusion_model."):
            save_file({prefix + name: value for name, value in tensors.items()}, folder / "wan.safetensors")
            _assert_wan(folder / "wan.safetensors", tensors)


@published("fp8_e4m3fn without scales (Kijai, Comfy)", "`components.transformer`")
def _(folder: Path) -> None:
    tensors = _wan()
    stored = {
        name: value.to(torch.float8_e4m3fn) if repacked.is_quantized(name, value) else value.half()
        for name, value in tensors.items()
    }
    save_file(stored, folder / "wan.safetensors")
    _assert_wan(folder / "wan.safetensors", stored)


@published("scaled fp8 (`*_scaled_KJ`, `*_fp8_scaled`): `.scale_weight` or `.weight_scale`", "`components.transformer`")
def _(folder: Path) -> None:
    for ending in (".scale_weight", ".weight_scale"):
        stored, expected = repacked.scaled_float8(_wan(), ending)
        save_file(stored, folder / "wan.safetensors")
        _assert_wan(folder / "wan.safetensors", expected)


def _described(kind: str, **settings: object) -> Tensor:
    return torch.tensor(list(json.dumps({"format": kind, **settings}).encode()), dtype=torch.uint8)


@published("`comfy_quant` of fp8", "`components.transformer`")
def _(folder: Path) -> None:
    stored, expected = repacked.scaled_float8(_wan(), ".weight_scale")
    del stored["scaled_fp8"]
    layers = [name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale")]
    save_file(
        stored | {f"{layer}.comfy_quant": _described("float8_e4m3fn") for layer in layers}, folder / "a.safetensors"
    )
    _assert_wan(folder / "a.safetensors", expected)


def _refuse_comfy_quant(folder: Path, description: Tensor, weight: torch.dtype) -> None:
    layer = "blocks.0.self_attn.q"
    stored = _wan() | {f"{layer}.weight_scale": torch.ones(128, 1), f"{layer}.comfy_quant": description}
    stored[f"{layer}.weight"] = torch.ones(128, 128).to(weight)
    save_file(stored, folder / "wan.safetensors")
    load_from_wan(folder / "wan.safetensors", PORTRAIT)


@published("`comfy_quant` of NVFP4", "`components.transformer`")
def _(folder: Path) -> None:
    _refuse_comfy_quant(folder, _described("nvfp4"), torch.uint8)


@published("`comfy_quant` of rotated int8 (ConvRot)", "`components.transformer`")
def _(folder: Path) -> None:
    _refuse_comfy_quant(folder, _described("int8_tensorwise", convrot=True), torch.int8)


@published("GGUF (city96), with `gguf` installed", "`components.transformer`")
def _(folder: Path) -> None:
    for kind in ("Q8_0", "Q5_1", "Q4_0"):
        expected = repacked.write_quantized_gguf(folder / f"{kind}.gguf", _wan(), kind)
        _assert_wan(folder / f"{kind}.gguf", expected)


# LoRAs

LAYERS = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.k_img": "blocks.1.attn2.add_k_proj",
    "blocks.2.ffn.0": "blocks.2.ffn.net.0.proj",
}
CHANGES = {
    "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "blocks.1.cross_attn.norm_k_img.diff": "blocks.1.attn2.norm_added_k.weight",
    "blocks.2.norm3.diff": "blocks.2.norm2.weight",
    "blocks.0.diff_m": "blocks.0.scale_shift_table",
    "head.diff_m": "scale_shift_table",
}


@torch.no_grad()
def _pairs(
    ends: tuple[str, str], spell: Callable[[str], str], scale: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of a file, and the changed weights by hand."""
    state, stored, expected = tiny_transformer().state_dict(), {}, {}
    for seed, (original, ours) in enumerate(LAYERS.items()):
        out, width = state[f"{ours}.weight"].shape
        generator = torch.Generator().manual_seed(seed)
        down, up = (torch.randn(shape, generator=generator) for shape in ((2, width), (out, 2)))
        stored |= {f"{spell(original)}.{ends[0]}.weight": down, f"{spell(original)}.{ends[1]}.weight": up}
        expected[f"{ours}.weight"] = state[f"{ours}.weight"] + scale * (up @ down)
    return stored, expected


@torch.no_grad()
def _changes(prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    state = tiny_transformer().state_dict()
    stored = {prefix + name: torch.full_like(state[ours], 0.5) for name, ours in CHANGES.items()}
    return stored, {ours: state[ours] + 0.5 for ours in CHANGES.values()}


def _assert_lora(folder: Path, stored: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Every changed value is the expected one, and nothing else is changed."""
    save_file(stored, folder / "lora.safetensors")
    model, before = tiny_transformer(), tiny_transformer().state_dict()
    fuse_lora_file(model, folder / "lora.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.get(name, before[name]))


KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")
LORA_SETTING = "`optimizations.few_step_lora`, `optimizations.loras`"


@published("lightx2v, official and Kijai's: pairs, `diff`, `diff_b`, `diff_m`", LORA_SETTING)
def _(folder: Path) -> None:
    stored, expected = _pairs(KOHYA, lambda layer: f"diffusion_model.{layer}", scale=2)
    stored |= {f"diffusion_model.{layer}.alpha": torch.tensor(4.0) for layer in LAYERS}
    changes, changed = _changes("diffusion_model.")
    _assert_lora(folder, stored | changes, expected | changed)


@published("CausVid and FusionX: `lora_A`, `lora_B` or `lora_down`, `lora_up`, with `diff_b` and norms", LORA_SETTING)
def _(folder: Path) -> None:
    for ends in (KOHYA, PEFT):
        stored, expected = _pairs(ends, lambda layer: f"diffusion_model.{layer}")
        changes, changed = _changes("diffusion_model.")
        _assert_lora(folder, stored | changes, expected | changed)


@published("AccVid: the bias of `time_projection` without a weight", LORA_SETTING)
def _(folder: Path) -> None:
    name = "condition_embedder.time_proj.bias"
    expected = {name: tiny_transformer().state_dict()[name] + 1}
    _assert_lora(folder, {"diffusion_model.time_projection.1.diff_b": torch.ones_like(expected[name])}, expected)


@published("musubi-tuner and VideoX-Fun: `lora_unet_blocks_0_self_attn_q`, `lora_unet__blocks_…`", LORA_SETTING)
def _(folder: Path) -> None:
    for prefix in ("lora_unet_", "lora_unet__"):
        spelt = {layer: prefix + layer.replace(".", "_") for layer in LAYERS}
        stored, expected = _pairs(KOHYA, spelt.__getitem__, scale=0.5)
        alphas = {name.replace("lora_down.weight", "alpha"): torch.tensor(1) for name in stored if "down" in name}
        _assert_lora(folder, stored | alphas, expected)


@published("DiffSynth: `pipe.dit.`", LORA_SETTING)
def _(folder: Path) -> None:
    _assert_lora(folder, *_pairs(("lora_A.default", "lora_B.default"), lambda layer: f"pipe.dit.{layer}"))


@published(
    "PEFT (`base_model.model.`) with `adapter_config.json`, also rsLoRA; without one, scale 1 and a note", LORA_SETTING
)
def _(folder: Path) -> None:
    spell = "base_model.model.{}".format
    _assert_lora(folder, *_pairs(PEFT, spell))
    for use_rslora, scale in ((False, 3.0), (True, 3 * 2**0.5)):
        (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "use_rslora": use_rslora}))
        _assert_lora(folder, *_pairs(PEFT, spell, scale))


@published("DoRA: `dora_scale`, `lora_magnitude_vector`", LORA_SETTING)
def _(folder: Path) -> None:
    torch.manual_seed(0)
    for ending in ("dora_scale", "lora_magnitude_vector"):
        stored, expected = _pairs(KOHYA, str)
        magnitudes = {name: torch.rand(len(value), 1) + 0.5 for name, value in expected.items()}
        for original, ours in LAYERS.items():
            magnitude = magnitudes[f"{ours}.weight"]
            stored[f"{original}.{ending}"] = magnitude if ending == "dora_scale" else magnitude.flatten()
        for name, value in expected.items():
            expected[name] = magnitudes[name] * value / value.norm(dim=1, keepdim=True)
        _assert_lora(folder, stored, expected)


@published("LoKr", LORA_SETTING)
def _(folder: Path) -> None:
    _assert_lora(folder, {"lora_unet_blocks_0_self_attn_q.lokr_w1": torch.ones(4, 4)}, {})


@published("a LoRA on a quantized base (GGUF), and several at once", LORA_SETTING)
def _(folder: Path) -> None:
    expected = repacked.write_quantized_gguf(folder / "wan.gguf", _wan())["blocks.0.self_attn.q.weight"]
    for number in range(2):
        down, up = torch.full((2, 128), float(number + 1)), torch.ones(128, 2)
        name = "blocks.0.self_attn.q"
        tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        save_file(tensors, folder / f"{number}.safetensors")
        expected = expected + 0.5 * (up @ down)
    model = load_from_wan(folder / "wan.gguf", PORTRAIT, torch.float32)
    for number in range(2):
        fuse_lora_file(model, folder / f"{number}.safetensors", 0.5)
    torch.testing.assert_close(model.blocks[0].attn1.to_q.weight.detach(), expected)


# Encoders


def _umt5() -> UMT5EncoderModel:
    torch.manual_seed(1)
    return UMT5EncoderModel(UMT5Config(vocab_size=70, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4))


@published(
    "`models_t5_umt5-xxl-enc-bf16.pth` (Wan-AI), `umt5-xxl-enc-bf16.safetensors` (Kijai)", "`components.text_encoder`"
)
def _(folder: Path) -> None:
    tensors = {name: value.bfloat16() for name, value in repacked.original_text_names(_umt5()).items()}
    torch.save(tensors, folder / "umt5.pth")
    save_file(tensors, folder / "umt5.safetensors")
    expected = {name: value.bfloat16() for name, value in _umt5().state_dict().items()}
    for suffix in (".pth", ".safetensors"):
        assert_state(load_text_encoder_file(folder / f"umt5{suffix}"), expected)


@published(
    "`umt5_xxl_fp16`, `umt5_xxl_fp8_e4m3fn_scaled` (Comfy-Org), with the tokenizer inside",
    "`components.text_encoder`",
)
def _(folder: Path) -> None:
    spiece = torch.frombuffer(bytearray(repacked.sentencepiece_model(folder)), dtype=torch.uint8)
    plain = {name: value.half() for name, value in repacked.hf_text_names(_umt5()).items()}
    for stored, expected in ((plain, plain), repacked.scaled_float8(repacked.hf_text_names(_umt5()))):
        save_file(stored | {"spiece_model": spiece}, folder / "umt5.safetensors")
        assert_state(load_text_encoder_file(folder / "umt5.safetensors"), expected)
    assert load_tokenizer_file(folder / "umt5.safetensors")("a person").input_ids[-1] == 1


@published("umT5 in GGUF (city96), with `gguf` installed", "`components.text_encoder`")
def _(folder: Path) -> None:
    parts = {"norm1": "attn_norm", "norm2": "ffn_norm", "pos_embedding.embedding": "attn_rel_b"}
    parts |= {f"attn.{kind}": f"attn_{kind}" for kind in "qkvo"}
    parts |= {"ffn.gate.0": "ffn_gate", "ffn.fc1": "ffn_up", "ffn.fc2": "ffn_down"}
    ends = {"token_embedding": "token_embd", "norm": "enc.output_norm"}
    named, ours = {}, repacked.hf_text_names(_umt5())
    for name, value in repacked.original_text_names(_umt5()).items():
        _, _, rest = (stem := name.removesuffix(".weight")).partition(".")
        new = ends.get(stem) or f"enc.blk.{rest.split('.')[0]}.{parts[rest.partition('.')[2]]}"
        named[f"{new}.weight"] = value
    expected = repacked.write_quantized_gguf(folder / "umt5.gguf", named)
    assert_state(load_text_encoder_file(folder / "umt5.gguf"), dict(zip(ours, expected.values(), strict=True)))


def _vae(**sizes: int) -> AutoencoderKLWan:
    torch.manual_seed(2)
    return AutoencoderKLWan(base_dim=4, **sizes)


@published(
    "`Wan2.1_VAE.pth` (Wan-AI), `wan_2.1_vae.safetensors` (Comfy-Org), `Wan2_1_VAE_bf16` (Kijai, also with `model.`)",
    "`components.vae`",
)
def _(folder: Path) -> None:
    tensors = {name: value.bfloat16() for name, value in repacked.original_vae_names(_vae()).items()}
    torch.save(tensors, folder / "vae.pth")
    save_file(tensors, folder / "vae.safetensors")
    save_file({f"model.{name}": value for name, value in tensors.items()}, folder / "model.safetensors")
    expected = {name: value.bfloat16() for name, value in _vae().state_dict().items()}
    for name in ("vae.pth", "vae.safetensors", "model.safetensors"):
        assert_state(load_vae_file(folder / name), expected)


@published("`Wan2.2_VAE.pth` (Wan-AI), of Wan2.2-TI2V-5B, also as safetensors", "`components.vae`")
def _(folder: Path) -> None:
    torch.manual_seed(3)
    vae = AutoencoderKLWan(**WAN22_VAE | {"base_dim": 4, "decoder_base_dim": 8})
    tensors = repacked.original_vae_names(vae)
    torch.save(tensors, folder / "vae.pth")
    save_file(tensors, folder / "vae.safetensors")
    for name in ("vae.pth", "vae.safetensors"):
        found = load_vae_file(folder / name)
        assert_state(found, vae.state_dict())
        assert found.config["latents_std"] == WAN22_VAE["latents_std"]


@published("LightVAE: the same layers, fewer channels", "`components.vae`")
def _(folder: Path) -> None:
    pruned = _vae(decoder_base_dim=2)
    torch.save(repacked.original_vae_names(pruned), folder / "lightvaew2_1.pth")
    assert_state(load_vae_file(folder / "lightvaew2_1.pth"), pruned.state_dict())


@published("TAEHV (`taew2_1`), another network", "`components.vae`")
def _(folder: Path) -> None:
    torch.save(
        {"encoder.0.weight": torch.ones(4, 3, 3, 3), "decoder.1.weight": torch.ones(4, 4, 3, 3)}, folder / "a.pth"
    )
    load_vae_file(folder / "a.pth")


def _clip() -> CLIPVisionModel:
    torch.manual_seed(3)
    sizes = {"hidden_size": 80, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14, hidden_act="gelu"))


@published("`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth` (Wan-AI)", "`components.image_encoder`")
def _(folder: Path) -> None:
    torch.save({name: value.half() for name, value in repacked.original_clip_names(_clip()).items()}, folder / "a.pth")
    expected = {name: value.half() for name, value in _clip().state_dict().items()}
    assert_state(load_image_encoder_file(folder / "a.pth")[0], expected)


@published("`clip_vision_h.safetensors` (Comfy-Org)", "`components.image_encoder`")
def _(folder: Path) -> None:
    named = {f"vision_model.{name}": value.half() for name, value in _clip().state_dict().items()}
    save_file(named | {"visual_projection.weight": torch.ones(3, 80)}, folder / "clip_vision_h.safetensors")
    expected = {name: value.half() for name, value in _clip().state_dict().items()}
    assert_state(load_image_encoder_file(folder / "clip_vision_h.safetensors")[0], expected)


def _wav2vec() -> Wav2Vec2Model:
    torch.manual_seed(4)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 48}
    conv = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0}
    return Wav2Vec2Model(Wav2Vec2Config(**sizes, conv_dim=(16,) * 7, **conv))


@published("`wav2vec2-base-960h` (Facebook): a folder", "`audio_encoder`")
def _(folder: Path) -> None:
    save_audio_encoder(folder, "wav2vec2")
    expected = load_file(folder / "model.safetensors")
    expected.pop("masked_spec_embed")  # for training
    assert_state(load_audio_encoder(folder).model, expected)


@published("`chinese-wav2vec2-base` (TencentGameMate): a folder with `pytorch_model.bin`", "`audio_encoder`")
def _(folder: Path) -> None:
    _wav2vec().config.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    torch.save(repacked.published_wav2vec_names(_wav2vec()), folder / "pytorch_model.bin")
    encoder = load_audio_encoder(folder)
    assert_state(encoder.model, _wav2vec().state_dict())
    assert encoder.feature_extractor.do_normalize


@published("`chinese-wav2vec2-base-fairseq-ckpt.pt`, which contains code", "`components.audio_encoder`")
def _(folder: Path) -> None:
    with (folder / "fairseq.pt").open("wb") as file:
        pickle.dump({"args": PublishedFormat, "model": {}}, file)
    load_audio_encoder(folder / "fairseq.pt")


@published(
    "`wav2vec2-chinese-base_fp16` (Kijai, Comfy): one file without a configuration", "`components.audio_encoder`"
)
def _(folder: Path) -> None:
    stored = repacked.published_wav2vec_names(_wav2vec(), dtype=torch.float16)
    save_file(stored, folder / "wav2vec2-chinese-base_fp16.safetensors")
    encoder = load_audio_encoder(folder / "wav2vec2-chinese-base_fp16.safetensors")
    assert_state(encoder.model, {name: value.half() for name, value in _wav2vec().state_dict().items()})
    assert not encoder.feature_extractor.do_normalize


@published("`whisper-large-v3` (OpenAI): a folder; the encoder is read", "`audio_encoder`")
def _(folder: Path) -> None:
    save_audio_encoder(folder, "whisper")
    stored = load_file(folder / "model.safetensors")
    prefix = "model.encoder."
    own = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    state = load_audio_encoder(folder).model.state_dict()
    assert len(own) > 20 and sum(value.numel() for value in state.values()) == sum(v.numel() for v in own.values())
    for name, value in own.items():
        found = next(other for key, other in state.items() if key.endswith(name))
        assert torch.equal(found, value), name
