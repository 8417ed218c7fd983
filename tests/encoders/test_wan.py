"""Wan's encoders compared with diffusers' image-to-video pipeline, and their errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from PIL import Image

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.wan import (
    ImageEncoder,
    TextEncoder,
    VideoAutoencoder,
    clean_prompt,
)
from fantasytalking.encoders.wan_layout import first_frame_mask, pad_prompt_embeds
from tests.helpers.errors import raises_input_error
from tests.helpers.paths import ROOT
from tests.helpers.tiny_components import IMAGE_DIM, TEXT_DIM, tiny_vae
from tests.helpers.tiny_wan22 import tiny_vae_5b

PROMPT = "A woman talks & smiles."


@pytest.fixture(scope="module")
def vae(components: Path) -> VideoAutoencoder:
    return VideoAutoencoder.from_pretrained(components)


@pytest.fixture(scope="module")
def text_encoder(components: Path) -> TextEncoder:
    return TextEncoder.from_pretrained(components)


@pytest.fixture(scope="module")
def image_encoder(components: Path) -> ImageEncoder:
    return ImageEncoder.from_pretrained(components)


@pytest.fixture(scope="module")
def official(vae: VideoAutoencoder, text_encoder: TextEncoder, image_encoder: ImageEncoder) -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        tokenizer=text_encoder.tokenizer,
        text_encoder=text_encoder.model,
        vae=vae.vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        image_processor=image_encoder.processor,
        image_encoder=image_encoder.model,
    )


def test_first_frame_condition_is_the_pipelines(vae: VideoAutoencoder, official: WanImageToVideoPipeline) -> None:
    image = torch.rand(1, 3, 32, 48, generator=torch.manual_seed(0)) * 2 - 1
    _, expected = official.prepare_latents(image, 1, 16, 32, 48, 9, torch.float32, torch.device("cpu"))
    latents = vae.encode_first_frame(image, 9)
    ours = torch.cat([vae.first_frame_mask(latents), latents], dim=1)
    assert ours.shape == (1, 20, 3, 4, 6)
    # Not bit-exact: the whole clip is encoded at once.
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_text_states_are_the_pipelines(
    text_encoder: TextEncoder, official: WanImageToVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pipeline's cleaning needs an optional package; PROMPT is clean.
    monkeypatch.setattr("diffusers.pipelines.wan.pipeline_wan_i2v.prompt_clean", lambda prompt: prompt)
    expected, _ = official.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=64)
    states = text_encoder.encode(PROMPT)
    assert states.shape[1] == TEXT_DIM and states.shape[0] < 64, "only real tokens"
    torch.testing.assert_close(pad_prompt_embeds(states, 64), expected[0], atol=1e-5, rtol=1e-5)


def test_prompts_are_cleaned(text_encoder: TextEncoder) -> None:
    assert clean_prompt(" A  woman\n talks &amp;amp; smi\u0308les ") == "A woman talks & smïles"
    assert torch.equal(text_encoder.encode(f"  {PROMPT} "), text_encoder.encode(PROMPT))


def test_text_beyond_the_limit_is_truncated(text_encoder: TextEncoder) -> None:
    assert text_encoder.encode("a" * 2000).shape == (512, TEXT_DIM)
    assert pad_prompt_embeds(torch.ones(9, 2), 4).shape == (4, 2)


def test_image_tokens_are_the_pipelines(image_encoder: ImageEncoder, official: WanImageToVideoPipeline) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    tokens = image_encoder.encode(torch.from_numpy(pixels))
    assert tokens.shape == (17, IMAGE_DIM)
    assert torch.equal(tokens, official.encode_image(Image.fromarray(pixels), torch.device("cpu"))[0])


def test_video_latents_have_the_transformers_scale(vae: VideoAutoencoder) -> None:
    video = torch.randint(0, 256, (1, 3, 9, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    latents = vae.encode(video)
    assert latents.shape == (1, 16, 3, 4, 4)
    assert torch.equal(latents, vae.encode(video.float() / 127.5 - 1)), "bytes and floats are one scale"
    raw = vae.vae.encode(video.float() / 127.5 - 1).latent_dist.mode()
    mean, std = torch.tensor(vae.vae.config.latents_mean), torch.tensor(vae.vae.config.latents_std)
    torch.testing.assert_close(latents, (raw - mean.view(1, 16, 1, 1, 1)) / std.view(1, 16, 1, 1, 1))


def test_decode_undoes_the_normalization(vae: VideoAutoencoder) -> None:
    latents = torch.randn(1, 16, 2, 4, 4, generator=torch.manual_seed(0))
    mean, std = torch.tensor(vae.vae.config.latents_mean), torch.tensor(vae.vae.config.latents_std)
    raw = latents * std.view(1, 16, 1, 1, 1) + mean.view(1, 16, 1, 1, 1)
    video = vae.decode(latents)
    assert video.shape == (1, 3, 5, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(video, vae.vae.decode(raw).sample)


def test_later_frames_do_not_change_earlier_latents(vae: VideoAutoencoder) -> None:
    video = torch.rand(1, 3, 9, 16, 16, generator=torch.manual_seed(0)) * 2 - 1
    other = video.clone()
    other[:, :, 5:] = 0
    first, second = vae.encode(video), vae.encode(other)
    assert torch.equal(first[:, :, :2], second[:, :, :2]) and not torch.equal(first[:, :, 2], second[:, :, 2])


def test_first_frame_mask_marks_latent_frame_zero() -> None:
    mask = first_frame_mask(torch.zeros(2, 16, 3, 4, 5), 4)
    assert mask.shape == (2, 4, 3, 4, 5)
    assert mask[:, :, 0].eq(1).all() and mask[:, :, 1:].eq(0).all()


@pytest.mark.parametrize(
    ("shape", "field", "size"), [((1, 3, 5, 16, 20), "width", 20), ((1, 3, 5, 12, 16), "height", 12)]
)
def test_sizes_must_be_multiples_of_the_stride(
    vae: VideoAutoencoder, shape: tuple[int, ...], field: str, size: int
) -> None:
    with raises_input_error(ErrorCode.out_of_range, field, size):
        vae.encode(torch.zeros(shape))


def test_the_number_of_frames_must_be_1_plus_4k(vae: VideoAutoencoder) -> None:
    with pytest.raises(InputError, match="5 or 9"):
        vae.encode(torch.zeros(1, 3, 8, 16, 16))


def test_a_missing_component_is_refused_with_the_download_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises_input_error(ErrorCode.missing_weights, "VAE", "vae") as error:
        VideoAutoencoder.from_pretrained(tmp_path)
    assert "hf download ID --local-dir" in str(error.value)
    with raises_input_error(ErrorCode.missing_weights, "text tokenizer", str(tmp_path / "nowhere")):
        TextEncoder.from_pretrained(tmp_path / "nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with raises_input_error(ErrorCode.missing_weights, "image processor") as error:
        ImageEncoder.from_pretrained("someone/not-here")
    assert "hf download someone/not-here --local-dir checkpoints/not-here" in str(error.value)


def test_damaged_and_incomplete_weights_are_refused(components: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(components / "vae", tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    kept = load_file(weights)
    kept.pop("quant_conv.bias")
    save_file(kept, weights, metadata={"format": "pt"})
    with raises_input_error(ErrorCode.shape_mismatch, "VAE", "quant_conv.bias"):
        VideoAutoencoder.from_pretrained(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with raises_input_error(ErrorCode.missing_weights, "VAE", f"{tmp_path}/vae"):
        VideoAutoencoder.from_pretrained(tmp_path)


def test_tiles_equal_the_whole_image_up_to_a_few_gray_levels() -> None:
    """The mean over the pixels differs by less than a gray level (2 / 255), the worst pixel by less than five."""
    autoencoder = VideoAutoencoder.from_pretrained(ROOT / "checkpoints" / "nano")
    rows, columns = torch.meshgrid(torch.linspace(0, 6, 320), torch.linspace(0, 5, 256), indexing="ij")
    image = torch.stack([torch.sin(columns + color) * torch.cos(rows) for color in range(3)])[None, :, None]
    latents = autoencoder.encode(image)
    whole = autoencoder.decode(latents)
    autoencoder.vae.enable_tiling()
    torch.testing.assert_close(autoencoder.encode(image), latents, atol=0.01, rtol=0)
    difference = (autoencoder.decode(latents) - whole).abs()
    assert 0 < difference.max() < 5 * 2 / 255 and difference.mean() < 2 / 255


@pytest.mark.parametrize("patched", [False, True], ids=["Wan 2.1", "Wan 2.2"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 136), (160, 40)])
def test_decoding_tile_by_tile_equals_diffusers_bit_for_bit(patched: bool, height: int, width: int) -> None:
    vae = tiny_vae_5b() if patched else tiny_vae()
    vae.enable_tiling(64, 64, 48, 48)
    side = vae.config["scale_factor_spatial"]
    size = (1, vae.config["z_dim"], 3, height // side, width // side)
    latents = torch.randn(size, generator=torch.Generator().manual_seed(0))
    autoencoder = VideoAutoencoder(vae)
    with torch.no_grad():
        pieces = torch.cat(list(autoencoder.iter_decode(latents)), dim=1)
        mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
        expected = vae.tiled_decode(latents * std + mean).sample[0]
    assert pieces.shape == (3, 9, height // side * side, width // side * side) and torch.equal(pieces, expected)
