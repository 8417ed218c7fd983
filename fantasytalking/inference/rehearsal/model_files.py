"""Writes a base and its adapters with random weights, in the folders and files in which the real ones are published."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast, Wav2Vec2FeatureExtractor

from fantasytalking.checkpoints.adapter import ADAPTER_FILE, AdapterConfig
from fantasytalking.common.gguf_file import GGUF_SUFFIX
from fantasytalking.inference.rehearsal.random_weights import write_gguf, write_safetensors, write_shards
from fantasytalking.inference.rehearsal.stored_layouts import REHEARSED_MODULES, StoredFiles
from fantasytalking.models.presets import ModelConfig

FOLDER_STEMS = {"vae": "diffusion_pytorch_model", "transformer": "diffusion_pytorch_model"}
"""Names of weight files; those of transformers' models are `model`."""
GGUF_ARCHITECTURES = {"text_encoder": "t5encoder"}
"""Entries of the metadata of GGUF files; that of a transformer is wan."""


def write_model(
    work: Path,
    preset: ModelConfig,
    models_by_name: Mapping[str, Any],
    files: StoredFiles,
    alignment: int,
) -> list[str]:
    """Writes everything and returns the settings of an inference configuration that name it.

    Args:
        files: of `plan_files`.
        alignment: as of `write_safetensors`.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    write_files(work, files, alignment)
    in_folders = {stored.component for path, stored in files.items() if path.startswith("base/")}
    _write_descriptions(
        work / "base", preset, {name: models_by_name[name] for name in models_by_name if name in in_folders}
    )
    settings = [f"base={work / 'base'}", f"audio_encoder={work / 'base/audio_encoder'}", "face_encoder=null"]
    for path, stored in files.items():
        target = work / path
        if target.name == ADAPTER_FILE:
            expert = "low" if target.parent.name.endswith("_2") else "high"
            described = AdapterConfig(
                list(REHEARSED_MODULES), "seconds", expert=expert if preset.boundary_ratio is not None else None
            )
            _write_json(target.parent / "config.json", asdict(described))
            settings.append(f"{target.parent.name}={target.parent}")
        elif target.suffix:
            settings.append(f"components.{stored.component}={target}")
    return settings


def write_files(work: Path, files: StoredFiles, alignment: int) -> None:
    """Writes the weights alone; arguments and errors as of `write_model`."""
    for path, stored in files.items():
        target = work / path
        if target.suffix:
            target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == GGUF_SUFFIX:
            write_gguf(target, stored.tensors, GGUF_ARCHITECTURES.get(stored.component, "wan"))
        elif target.suffix:
            write_safetensors(target, stored.tensors, alignment)
        else:
            stem = FOLDER_STEMS.get(stored.component.removesuffix("_2"), "model")
            write_shards(target, stem, stored.tensors, alignment)


def _write_descriptions(base: Path, preset: ModelConfig, models_by_name: Mapping[str, Any]) -> None:
    index: dict[str, Any] = {"_class_name": "WanImageToVideoPipeline"}
    if preset.boundary_ratio is not None:
        index["boundary_ratio"] = preset.boundary_ratio
    for name, model in models_by_name.items():
        folder = base / name
        folder.mkdir(parents=True, exist_ok=True)
        if name.startswith("transformer"):
            known = inspect.signature(WanTransformer3DModel.__init__).parameters
            values = {key: value for key, value in model.config.items() if key in known}
            _write_json(folder / "config.json", {"_class_name": "WanTransformer3DModel", **values})
        elif isinstance(model, AutoencoderKLWan):
            model.save_config(folder)
        else:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(folder)
    _write_json(base / "model_index.json", index)
    _byte_tokenizer().save_pretrained(base / "tokenizer")
    if "image_encoder" in models_by_name:
        side = models_by_name["image_encoder"].config.image_size
        size = {"height": side, "width": side}
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=size).save_pretrained(base / "image_processor")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(base / "audio_encoder")


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the special tokens of T5: umT5's own vocabulary is not at hand without a download."""
    vocabulary = ["<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
