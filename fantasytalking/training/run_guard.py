"""Guards of a resumed run: its configuration and manifests must be those it was started with."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fantasytalking.common.config import load_config
from fantasytalking.common.config_aliases import rename_old_keys
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text, hash_file
from fantasytalking.common.text_files import read_json
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.stage_config import ObjectiveType

logger = logging.getLogger(__name__)

MUTABLE_ON_RESUME = (
    *("output", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "activation_offload"),
    *("attention_backend", "compile"),
    *("checkpoints", "logging", "validation", "holdout"),
    *("stage.steps", "data.num_workers", "data.max_unreadable_fraction", "data.manifests", "data.exclude"),
    *("optimizer.learning_rate", "optimizer.max_grad_norm", "optimizer.max_nonfinite_steps"),
)
"""Keys and sections of the configuration that may change when a run is resumed. The content of the manifests may not;
see `check_same_manifests`."""
RECORDED_ON_CHANGE = (
    *("optimizer.learning_rate", "optimizer.max_grad_norm", "data.exclude", "attention_backend", "compile"),
    *("stage.steps",),
)
"""Those of them that change the weights: `record_changes` records their changes."""
CHANGES_FILE = "changes.jsonl"
GLOBAL_BATCH = "global batch"
"""Key of run.json: the only one that is not a key of the configuration."""


def check_same_config(output: Path, global_batch_size: int, config: TrainConfig) -> None:
    """Validates that a run is resumed with the configuration it was started with, which run.json records.

    The distribution of a global batch over processes and accumulation may change, and so may `MUTABLE_ON_RESUME`. Keys
    that run.json lacks were added later and had their defaults; keys of earlier releases are renamed.

    Raises:
        InputError: a value differs from that of run.json, or run.json is damaged.
    """
    path, requested = output / "run.json", _immutable_values(config, global_batch_size)
    if not path.is_file():
        atomic_write_text(path, json.dumps(requested, indent=1) + "\n")
        return
    try:
        recorded = _rename_flat_keys(read_json(path), str(path))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{path}' is damaged ({error}); choose another output folder",
            code=ErrorCode.malformed_file,
            field="run.json",
            value=str(path),
        ) from error
    started = {**_flatten_immutable(asdict(TrainConfig())), "stage.objective": _implied_objective(recorded), **recorded}
    for key in sorted(requested.keys() | started.keys()):
        if started.get(key) != requested.get(key):
            raise InputError(
                f"output '{output}' has a run with {key} = {started.get(key)!r}, not {requested.get(key)!r}; "
                "resume with the same configuration or choose another output folder",
                code=ErrorCode.conflict,
                field=key,
                value=requested.get(key),
            )


def check_same_manifests(output: Path, manifests: Sequence[str]) -> None:
    """Validates that a run is resumed with manifests of the same content and order; clips.json records their hashes.

    Their place may change. Other clips would change the order of the data, and fitted motion normalizers.

    Raises:
        InputError: the content of a manifest has changed.
    """
    path, hashes = output / "clips.json", {manifest: hash_file(Path(manifest)) for manifest in manifests}
    if not path.is_file():
        atomic_write_text(path, json.dumps(hashes, indent=1) + "\n")
        return
    recorded = list(read_json(path).values())
    if list(hashes.values()) != recorded:
        pairs = zip_longest(hashes.items(), recorded, fillvalue=None)
        changed = next((given for given, content in pairs if given is None or given[1] != content), None)
        what = f"data.manifests has {len(hashes)} files" if changed is None else f"'{changed[0]}' has changed"
        raise InputError(
            f"{what}, but the run in '{output}' was started with {len(recorded)} of another content or order; restore "
            "them, leave clips out by data.exclude, or choose another output folder (stage.init_from starts from an "
            "adapter)",
            code=ErrorCode.conflict,
            field="data.manifests",
            value=None if changed is None else changed[0],
        )


def record_changes(output: Path, config: TrainConfig, step: int) -> None:
    """Appends a line to changes.jsonl if a setting that changes the weights differs from the last start's train.yaml.

    Args:
        step: the step at which the run is resumed.
    """
    path = output / "train.yaml"
    if not path.is_file():
        return
    before, now = load_config(TrainConfig, path), config
    changes = {key: [_plain(before, key), _plain(now, key)] for key in RECORDED_ON_CHANGE}
    changes = {key: pair for key, pair in changes.items() if pair[0] != pair[1]}
    if changes:
        with (output / CHANGES_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "changes": changes}) + "\n")
        logger.info(", ".join(f"{key} is {now}, was {old}" for key, (old, now) in changes.items()))


def _plain(config: TrainConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _immutable_values(config: TrainConfig, global_batch_size: int) -> dict[str, Any]:
    """What run.json records: the configuration without what may change, flat."""
    values = {GLOBAL_BATCH: global_batch_size, **_flatten_immutable(asdict(config))}
    return {**values, "stage.objective": config.stage.resolved_objective.value}


def _implied_objective(recorded: Mapping[str, Any]) -> str:
    """The objective of a run that was started before there was a key for it."""
    distilled = any(key.startswith("stage.distillation.") for key in recorded)
    return (ObjectiveType.distillation if distilled else ObjectiveType.flow_matching).value


def _flatten_immutable(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested values to `a.b.c` -> value as read back from JSON, without `MUTABLE_ON_RESUME`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in MUTABLE_ON_RESUME:
            continue
        if isinstance(value, Mapping):
            flat.update(_flatten_immutable(value, f"{key}."))
        else:
            flat[key] = value.value if isinstance(value, Enum) else value
    return flat


def _rename_flat_keys(flat: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Renames the keys and values of earlier releases in a flat configuration."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = [key] if key == GLOBAL_BATCH else key.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    return _flatten_immutable(rename_old_keys(TrainConfig, nested, source, warn=False))
