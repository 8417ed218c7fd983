"""Single files in place of components of a base, and the layout of Wan's original repositories."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, UMT5EncoderModel

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.loading import load_component, load_model
from fantasytalking.encoders.single_files.image_encoder import load_image_encoder_file
from fantasytalking.encoders.single_files.text_encoder import (
    has_tokenizer,
    load_text_encoder_file,
    load_tokenizer_file,
)
from fantasytalking.encoders.single_files.vae import load_vae_file
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.models.wan_loading import read_base_config


@dataclass
class ComponentFiles:
    """Files in place of components of the base, in any published format; null: the base's own."""

    transformer: str | None = None
    """Wan transformer: .safetensors, also in float8 with or without scales, or .gguf."""
    transformer_2: str | None = None
    """The low-noise expert of Wan2.2-I2V-A14B; `transformer` is then the high-noise one."""
    vae: str | None = None
    """Wan2.1_VAE.pth, Wan2.2_VAE.pth or a repack."""
    text_encoder: str | None = None
    """umT5: models_t5_umt5-xxl-enc-bf16.pth or a repack, also in float8 with scales, or .gguf."""
    tokenizer: str | None = None
    """umT5's tokenizer: a folder, or spiece.model; null: the one in the text encoder's file, or the base's."""
    image_encoder: str | None = None
    """CLIP: models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth or clip_vision_h."""
    audio_encoder: str | None = None
    """wav2vec2, in place of the setting audio_encoder."""

    def given(self) -> dict[str, str]:
        """Returns the files by component."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


COMPONENT_NAMES = tuple(entry.name for entry in fields(ComponentFiles))
ORIGINAL_LAYOUT = {
    "Wan2.1_VAE.pth": "vae",
    "Wan2.2_VAE.pth": "vae",
    "models_t5_umt5-xxl-enc-bf16.pth": "text_encoder",
    "google/umt5-xxl": "tokenizer",
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth": "image_encoder",
}
"""Components by the files of Wan's original repositories."""
ORIGINAL_EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
"""Folders of the experts in Wan2.2-I2V-A14B; other repositories have the transformer in the folder itself."""
OPTIONAL_COMPONENTS = ("transformer_2", "image_encoder")
"""Components that only some bases have."""


def original_components(base: Path) -> dict[str, Path]:
    """Returns the components in the folder of an original repository of Wan; empty for a folder of diffusers."""
    if (base / "vae").is_dir():
        return {}
    found = {name: base / file for file, name in ORIGINAL_LAYOUT.items() if (base / file).exists()}
    if any(base.glob("diffusion_pytorch_model*.safetensors")):
        found["transformer"] = base
    return found | {name: base / folder for name, folder in ORIGINAL_EXPERTS.items() if (base / folder).is_dir()}


def resolve_components(
    base: Path, given: Mapping[str, str | Path], audio_encoder: str | Path | None = None
) -> dict[str, Path]:
    """Returns the files of a model in place of components of its base, of which none may be missing.

    Args:
        base: a folder of diffusers or of an original repository, or the transformer's file.
        given: files by component, which precede those of an original repository.
        audio_encoder: folder, file or hub id; None: the one in `base`.

    Raises:
        InputError: a component is unknown, or some are missing; names how each is given.
    """
    unknown = [name for name in given if name not in COMPONENT_NAMES]
    if unknown:
        raise InputError(
            f"components has '{unknown[0]}'; known are {', '.join(COMPONENT_NAMES)}",
            code=ErrorCode.unknown_key,
            field="components",
            value=unknown[0],
        )
    files = original_components(base) | {name: Path(file) for name, file in given.items()}
    if base.is_file():
        files.setdefault("transformer", base)
    if files:
        check_complete(base, files if audio_encoder is None else {**files, "audio_encoder": Path(audio_encoder)})
    return files


def check_complete(base: Path, components: Mapping[str, Path]) -> None:
    """Checks that a model of single files has every component.

    Args:
        base: a folder of diffusers or of an original repository, or the transformer's file.
        components: files by component.

    Raises:
        InputError: some are missing; names how each is given.
    """
    missing = [name for name in COMPONENT_NAMES if name not in components and not (base / name).is_dir()]
    needed = [name for name in missing if name not in OPTIONAL_COMPONENTS]
    if "transformer" in components and "image_encoder" in missing:
        has_image_encoder = read_base_config(components["transformer"])["image_dim"] is not None
        needed += ["image_encoder"] if has_image_encoder else []
    if "tokenizer" in needed and "text_encoder" in components and has_tokenizer(components["text_encoder"]):
        needed.remove("tokenizer")
    if needed:
        raise InputError(
            f"the model lacks {', '.join(needed)}, and '{base}' has none; give "
            f"{' '.join(f'components.{name}=FILE' for name in needed)}, or a base in diffusers' layout: base=FOLDER",
            code=ErrorCode.missing_weights,
            field=f"components.{needed[0]}",
            value=str(base),
        )


def load_vae(source: str | Path, files: Mapping[str, Path], **options: Any) -> VideoAutoencoder:
    """Loads the VAE of a single file, or of a base by `VideoAutoencoder.from_pretrained` with `options`.

    Raises:
        InputError: it is missing, damaged or incomplete.
    """
    if "vae" in files:
        return VideoAutoencoder(load_vae_file(files["vae"], options["dtype"]))
    return VideoAutoencoder.from_pretrained(source, **options)


def load_text_encoder(
    source: str | Path, files: Mapping[str, Path], *, keep_quantized: bool = False, **options: Any
) -> TextEncoder:
    """Loads umT5 and its tokenizer, each of a single file or of a base, whose model is loaded with `options`.

    Args:
        keep_quantized: whether linear layers keep weights that a single file stores quantized.

    Raises:
        InputError: one is missing, damaged or incomplete.
    """
    own = files.get("text_encoder")
    if own is None and "tokenizer" not in files:
        return TextEncoder.from_pretrained(source, **options)
    if own is not None:
        model = load_text_encoder_file(own, options["dtype"], keep_quantized)
    else:
        model = load_model(UMT5EncoderModel, source, "text_encoder", "text encoder", **options)
    if "tokenizer" in files:
        tokenizer = load_tokenizer_file(files["tokenizer"])
    elif own is not None and has_tokenizer(own):
        tokenizer = load_tokenizer_file(own)
    else:
        tokenizer = load_component(AutoTokenizer.from_pretrained, source, "tokenizer", "text tokenizer")
    return TextEncoder(model, tokenizer)


def load_image_encoder(source: str | Path, files: Mapping[str, Path], **options: Any) -> ImageEncoder:
    """Loads CLIP and its image processor of a single file, or of a base by `ImageEncoder.from_pretrained`.

    Raises:
        InputError: one is missing, damaged or incomplete.
    """
    if "image_encoder" in files:
        return ImageEncoder(*load_image_encoder_file(files["image_encoder"], options["dtype"]))
    return ImageEncoder.from_pretrained(source, **options)
