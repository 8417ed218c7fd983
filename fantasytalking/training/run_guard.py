"""Guards of a resumed run: its configuration and manifests must be those it was started with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from fantasytalking.common.config_aliases import rename_old_keys
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, hash_file
from fantasytalking.common.text_files import read_json
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.stage_config import ObjectiveType

MUTABLE_ON_RESUME = (
    *("output", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
    *("checkpoints", "logging", "validation", "holdout"),
    *("stage.steps", "data.num_workers", "data.max_unreadable_fraction"),
)
"""Keys and sections of the configuration that may change when a run is resumed."""
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
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(requested, indent=1) + "\n", encoding="utf-8")
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
    """Validates that a run is resumed with manifests of the same content, whose hashes clips.json records.

    Other clips would change the order of the data from the next step on, and fitted motion normalizers.

    Raises:
        InputError: the content of a manifest has changed.
    """
    path, hashes = output / "clips.json", {manifest: hash_file(Path(manifest)) for manifest in manifests}
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
        return
    recorded = read_json(path)
    changed = [manifest for manifest, content in hashes.items() if recorded.get(manifest) != content]
    if changed:
        raise InputError(
            f"'{changed[0]}' has changed since the run in '{output}' was started; restore it, or choose another output "
            "folder (stage.init_from starts from an adapter)",
            code=ErrorCode.conflict,
            field="data.manifests",
            value=changed[0],
        )


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
