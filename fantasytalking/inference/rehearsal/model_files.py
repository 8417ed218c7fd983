"""Writes a base and its adapters with random weights, in the folders and files in which the real ones are published."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast, Wav2Vec2FeatureExtractor

from fantasytalking.checkpoints.adapter import ADAPTER_FILE, AdapterConfig
from fantasytalking.inference.rehearsal.random_weights import Shapes, stored_bytes, write_safetensors, write_shards
from fantasytalking.models.experts import Expert
from fantasytalking.models.presets import ModelConfig
from fantasytalking.models.wan_loading import adapter_module_of
from fantasytalking.pipeline.loading.options import FLOAT32_COMPONENTS

REHEARSED_MODULES = ("audio", "face", "motion")
TIED_NAMES = ("encoder.embed_tokens.weight",)
"""umT5's second name of its embedding, which files leave out."""
FOLDER_STEMS = {"vae": "diffusion_pytorch_model", "transformer": "diffusion_pytorch_model"}
"""Names of weight files; those of transformers' models are `model`."""


class WeightFormat(Enum):
    """How the transformer and the text encoder are stored; the other components are always in diffusers' folders."""

    safetensors = "safetensors"
    """bfloat16 in diffusers' folders, in shards of 5 GiB."""
    fp8 = "fp8"
    """One file each in float8_e4m3fn without scales, which is read as bfloat16."""


SINGLE_FILE_COMPONENTS = ("transformer", "transformer_2", "text_encoder")
StoredFiles = dict[str, tuple[str, Shapes, torch.dtype]]
"""Component, tensors and dtype of every file or folder of shards, by path in the work folder."""


def plan_files(models_by_name: Mapping[str, Any], weight_format: WeightFormat) -> StoredFiles:
    """Returns what is written. A path that ends in .safetensors is one file, any other a folder of shards."""
    files: StoredFiles = {}
    for name, model in models_by_name.items():
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if key not in TIED_NAMES}
        if name.startswith("transformer"):
            adapter = {key: shape for key, shape in shapes.items() if adapter_module_of(key) in REHEARSED_MODULES}
            files[f"{_adapter_folder(name)}/{ADAPTER_FILE}"] = name, adapter, torch.bfloat16
            shapes = {key: shape for key, shape in shapes.items() if adapter_module_of(key) is None}
        if weight_format is WeightFormat.fp8 and name in SINGLE_FILE_COMPONENTS:
            files[f"files/{name}_fp8_e4m3fn.safetensors"] = name, shapes, torch.float8_e4m3fn
        else:
            files[f"base/{name}"] = name, shapes, torch.float32 if name in FLOAT32_COMPONENTS else torch.bfloat16
    return files


def files_bytes(files: StoredFiles) -> int:
    """Returns the bytes on the disk of `plan_files`, without headers and configurations."""
    return sum(stored_bytes(shapes, dtype) for _, shapes, dtype in files.values())


def plan_loading(
    models_by_name: Mapping[str, Any], files: StoredFiles, is_copied: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the bytes of each component once it is loaded, and the part that is not used where it is mapped.

    Args:
        models_by_name: in the dtypes that they are loaded in.
        is_copied: whether weights of the right dtype are copied, too.
    """
    weights, copied = dict.fromkeys(models_by_name, 0), dict.fromkeys(models_by_name, 0)
    for path, (component, shapes, dtype) in files.items():
        parameters = dict(models_by_name[component].named_parameters())
        for name in shapes:
            size = parameters[name].nbytes
            weights[component] += size
            if is_copied or path.endswith(ADAPTER_FILE) or parameters[name].dtype != dtype:
                copied[component] += size
    return weights, copied


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
    for path, (_, shapes, dtype) in files.items():
        target = work / path
        if target.suffix == ".safetensors":
            target.parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(target, shapes, dtype, alignment)
        else:
            write_shards(target, FOLDER_STEMS.get(target.name.removesuffix("_2"), "model"), shapes, dtype, alignment)
    _write_descriptions(work / "base", preset, models_by_name)
    settings = [f"base={work / 'base'}", f"audio_encoder={work / 'base/audio_encoder'}", "face_encoder=null"]
    for path in files:
        target = work / path
        if target.name == ADAPTER_FILE:
            expert = "low" if target.parent.name.endswith("_2") else "high"
            described = AdapterConfig(
                list(REHEARSED_MODULES), "seconds", expert=expert if preset.boundary_ratio is not None else None
            )
            _write_json(target.parent / "config.json", asdict(described))
            settings.append(f"{target.parent.name}={target.parent}")
        elif target.suffix == ".safetensors":
            settings.append(f"components.{target.name.removesuffix('_fp8_e4m3fn.safetensors')}={target}")
    return settings


def _adapter_folder(component: str) -> str:
    return "adapter_2" if component == Expert.low.component else "adapter"


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
