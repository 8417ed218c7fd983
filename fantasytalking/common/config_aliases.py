"""Configuration keys that were renamed. Old keys keep working for one release, each with one warning.

`RENAMED_KEYS` maps the name of a schema to its renamed keys; `RENAMED_VALUES` does the same for values of a key.
"""

import logging
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from fantasytalking.common.errors import ErrorCode, InputError

logger = logging.getLogger(__name__)

RENAMED_KEYS: dict[str, dict[str, str]] = {
    "AblationConfig": {
        "work": "work_dir",
        "components": "base",
        "closeness": "zoom",
        "clips": "num_clips",
        "seconds": "max_seconds",
        "train": "train_overrides",
        "infer": "infer_overrides",
        "reader": "expression_reader",
        "control": "motion_control",
    },
    "AblationRowConfig": {
        "stage1_share": "stage1_fraction",
        "portrait": "portrait_stage",
        "train": "train_overrides",
        "infer": "infer_overrides",
        "seeds": "num_seeds",
    },
    "AudioEncoderTraining": {
        "utterances": "num_utterances",
        "held_out_utterances": "num_held_out_utterances",
        "seconds": "window_seconds",
        "layers": "num_layers",
        "heads": "num_heads",
        "feed_forward": "feed_forward_dim",
        "channels": "conv_channels",
    },
    "BenchmarkConfig": {
        "seconds": "max_seconds",
        "least_seconds": "min_seconds",
        "clips": "max_clips",
        "clips_per_identity": "max_clips_per_identity",
        "surplus": "max_extra_frames",
        "training": "training_manifests",
    },
    "BuildConfig": {
        "work": "work_dir",
        "size": "image_size",
        "closeness": "zoom",
        "processes": "num_processes",
        "components": "pretrained_components",
        "text_length": "max_text_tokens",
        "shift": "flow_shift",
        "stills": "portrait_images",
        "audio": "audio_encoder",
        "face": "face_encoder",
        "language": "text_image_encoder",
        "expression": "expression_encoder",
        "people_videos": "multi_person_videos",
        "more_videos": "extended_videos",
        "people_prepare": "multi_person_prepare",
        "stage2_people": "stage2_multi_person",
        "more_prepare": "extended_prepare",
        "stage2_more": "stage2_extended",
        "people": "portrait_stage",
    },
    "CheckpointsConfig": {
        "every": "interval",
        "keep_last": "keep_last_n",
    },
    "ComponentTrainingConfig": {
        "batch": "batch_size",
        "optimiser": "optimizer",
        "warm_up": "warmup_steps",
        "clip_norm": "max_grad_norm",
        "save_every": "save_interval",
        "tell_every": "log_interval",
    },
    "DistillationConfig": {
        "windows": "num_windows",
        "teacher_steps": "teacher_steps_per_window",
        "shift": "flow_shift",
        "text": "text_guidance_range",
        "audio": "audio_guidance_range",
        "formula": "guidance_order",
        "at_start": "window_start_fraction",
        "width": "embedder_dim",
        "half": "save_float16",
    },
    "DropoutConfig": {
        "reference_drops": "reference_target",
    },
    "ExpressionConditionConfig": {
        "parameters_of": "match_parameters_of",
        "half": "save_float16",
    },
    "ExpressionEncoderTraining": {
        "people": "num_identities",
        "held_out": "num_held_out",
        "poses": "images_per_person",
        "agreement": "agreement_weight",
    },
    "ExtendedVideosConfig": {
        "first": "first_identity",
        "identities": "num_identities",
        "utterances": "utterances_per_person",
        "resting_every": "rest_interval",
    },
    "GuidanceConfig": {
        "formula": "order",
        "keep_colour": "color_rescale",
        "batched": "batch_branches",
    },
    "GuidanceSchedule": {
        "start": "scale_start",
        "end": "scale_end",
        "share": "stop",
    },
    "HoldoutConfig": {
        "every": "interval",
        "clips": "max_clips",
    },
    "InferConfig": {
        "sampler": "scheduler",
        "shift": "flow_shift",
        "text_length": "max_text_tokens",
        "precision": "dtype",
        "savings": "optimizations",
        "note": "notice",
        "least_face": "min_face_fraction",
        "face": "face_index",
        "faces": "face_indices",
        "steps": "num_inference_steps",
        "seconds": "max_seconds",
        "fit": "resize_mode",
    },
    "LoggingConfig": {
        "every": "interval",
    },
    "LoraConfig": {
        "targets": "target_modules",
    },
    "LossConfig": {
        "draw": "mask_sampling",
        "normalisation": "normalization",
    },
    "MotionControlConfig": {
        "seconds": "max_seconds",
    },
    "MultiPersonVideosConfig": {
        "people": "people_per_video",
        "identities": "num_identities",
        "sentences": "sentences_per_person",
        "alone": "num_single_person_identities",
    },
    "OptimizationConfig": {
        "threshold": "cache_threshold",
        "interval": "cache_interval",
        "weights": "quantization",
        "lora": "few_step_lora",
        "lora_scale": "few_step_lora_scale",
        "gpu_gib": "vram_limit_gib",
    },
    "OptimizerConfig": {
        "kind": "type",
        "warm_up": "warmup_steps",
        "schedule": "lr_schedule",
        "final_share": "min_lr_ratio",
        "clip_norm": "max_grad_norm",
    },
    "PortraitImagesConfig": {
        "identities": "num_identities",
        "held_out": "num_held_out",
        "poses": "images_per_person",
    },
    "PreparationConfig": {
        "components": "base",
        "people": "max_people",
        "judge_people": "filter_people",
        "stride": "clip_stride",
        "fit": "resize_mode",
        "ranges": "time_ranges",
        "cut_threshold": "scene_cut_threshold",
        "min_frame_rate": "min_fps_ratio",
        "max_enlargement": "max_upscale",
        "min_loudness": "min_loudness_db",
        "min_confidence": "min_face_confidence",
        "min_face_share": "min_visible_fraction",
        "normaliser": "motion_normalizer",
        "precision": "dtype",
        "threads": "num_threads",
    },
    "TextImageEncoderTraining": {
        "vocabulary": "vocab_size",
    },
    "TrainConfig": {
        "batch": "batch_size",
        "accumulation": "gradient_accumulation_steps",
        "precision": "mixed_precision",
        "attention": "attention_backend",
        "optimiser": "optimizer",
        "saving": "checkpoints",
        "held_out": "holdout",
    },
    "TrainingDataConfig": {
        "fit_motion": "refit_motion_normalizer",
        "text_length": "max_text_tokens",
        "window_seconds": "audio_window_seconds",
        "lip_mask": "lip_mask_projection",
        "regions": "region_boxes",
        "workers": "num_workers",
        "max_bad_share": "max_unreadable_fraction",
    },
    "VaeTraining": {
        "channels": "latent_channels",
        "residual": "residual_shortcuts",
        "frames": "clip_frames",
        "crop": "crop_size",
        "whole_every": "full_frame_interval",
        "long_frames": "long_clip_frames",
        "long_crop": "long_crop_size",
        "square_weight": "mse_weight",
        "absolute_weight": "l1_weight",
    },
    "ValidationConfig": {
        "every": "interval",
        "portrait": "image",
        "drive": "driving_videos",
        "seconds": "max_seconds",
        "steps": "num_inference_steps",
        "infer": "infer_config",
    },
    "VideosConfig": {
        "identities": "num_identities",
        "group": "group_size",
        "sentences": "sentences_per_person",
        "held_out": "num_held_out",
    },
}
"""New key by old key, by the name of the dataclass that has them."""
RENAMED_VALUES: dict[str, dict[str, dict[Any, str]]] = {
    # YAML reads an unquoted `no` as a boolean.
    "TrainConfig": {"mixed_precision": {"fp32": "no", False: "no"}},
    "OptimizationConfig": {"quantization": {"full": "none"}},
}
"""New value by old value, by new key, by the name of the dataclass."""


def rename_old_keys(schema: Any, values: Any, source: str, prefix: str = "", *, warn: bool = True) -> Any:
    """Returns `values` with the keys and values of earlier releases renamed to those of `schema`.

    Logs one warning per renamed key of the process, unless `warn` is False (for files that no user writes).

    Args:
        schema: a dataclass, or the type of one of its fields.
        values: what is to fill it: nested dictionaries, lists and scalars.
        source: names the values in messages.
        prefix: path of `values` in the whole configuration, with a dot at its end.

    Raises:
        InputError: a key is given under its old and its new name.
    """
    if isinstance(values, list):
        element = next(iter(get_args(_dataclass_of(schema, list) or schema)), None)
        return [rename_old_keys(element, value, source, prefix, warn=warn) for value in values]
    dataclass_type = _dataclass_of(schema)
    if dataclass_type is None or not isinstance(values, dict):
        return values
    keys = RENAMED_KEYS.get(dataclass_type.__name__, {})
    hints = get_type_hints(dataclass_type)
    renamed: dict[str, Any] = {}
    key: str
    for key, value in values.items():
        new: str = keys.get(key, key)
        if new != key:
            if new in values:
                raise InputError(
                    f"{source}: '{prefix}{key}' and '{prefix}{new}' are the same key; leave out the first",
                    code=ErrorCode.conflict,
                    field=f"{prefix}{new}",
                    value=key,
                )
            if warn:
                _warn_once(f"{prefix}{key}", f"{prefix}{new}")
        new_values = RENAMED_VALUES.get(dataclass_type.__name__, {}).get(new, {})
        if isinstance(value, str | bool) and value in new_values:
            value = new_values[value]
        renamed[new] = rename_old_keys(hints.get(new), value, source, f"{prefix}{new}.", warn=warn)
    return renamed


def restore_old_keys(schema: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `values` under the keys of earlier releases: what fingerprints on disk were computed from."""
    dataclass_type = _dataclass_of(schema)
    if dataclass_type is None:
        return dict(values)
    old_keys = {new: old for old, new in RENAMED_KEYS.get(dataclass_type.__name__, {}).items()}
    hints = get_type_hints(dataclass_type)
    restored: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping) and _dataclass_of(hints.get(key)) is not None
        restored[old_keys.get(key, key)] = restore_old_keys(hints.get(key), value) if nested else value
    return restored


def _dataclass_of(schema: Any, kind: type | None = None) -> Any:
    """The dataclass (or the generic `kind`) that a field's type names, optional or not; None = there is none."""
    candidates = [schema, *(arg for arg in get_args(schema) if type(None) in get_args(schema))]
    if kind is not None:
        return next((one for one in candidates if getattr(one, "__origin__", None) is kind), None)
    return next((one for one in candidates if is_dataclass(one)), None)


@cache
def _warn_once(old: str, new: str) -> None:
    logger.warning("the key '%s' was renamed to '%s'; the old name works for one more release", old, new)
