"""Checkpoints to resume from: complete or not there, the last N, and a folder that is known to take them.

<output>/checkpoints/step-00000500/ is written as .step-00000500.partial and renamed when everything is in it.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, hash_file
from fantasytalking.common.tensor_io import read_json
from fantasytalking.training.config import TrainConfig

PROGRESS_FILE = "progress.json"
MUTABLE_ON_RESUME = (
    *("output", "batch", "accumulation", "gradient_checkpointing", "saving", "logging", "validation", "held_out"),
    *("stage.steps", "data.num_workers", "data.max_unreadable_fraction"),
)
"""Keys of a run that may change when it is resumed."""
_CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")


@dataclass
class TrainingProgress:
    """How far a run is, beside weights and optimiser state."""

    step: int = 0
    """Steps done."""
    bad: dict[str, str] = field(default_factory=dict)
    """Clips that could not be read, and why."""
    seconds: float = 0.0
    """Time spent training."""
    layout: str = ""
    """How processes shared the work when it was written, where files depend on it; "" = it is not known."""


class CheckpointManager:
    """The checkpoints of one run."""

    def __init__(self, output: Path, keep_last_n: int) -> None:
        self._folder = output / "checkpoints"
        self._keep_last_n = keep_last_n

    def latest(self) -> Path | None:
        """The newest complete one."""
        complete = self._complete()
        return complete[-1] if complete else None

    def partial_path(self, step: int) -> Path:
        """Where the one of `step` is written until it is complete."""
        return self._folder / f".step-{step:08d}.partial"

    def required_bytes(self, checkpoint_bytes: int) -> int:
        """Bytes that must be free for all that are kept, of `checkpoint_bytes` each, and one being written beside
        them."""
        kept, partial = _folder_bytes(self._complete()), _folder_bytes(self._folder.glob(".step-*.partial"))
        return max(
            0, max(checkpoint_bytes, (self._keep_last_n + 1) * checkpoint_bytes - kept) - partial
        )  # what is half-written goes first

    def remove_partial(self) -> None:
        """Removes what a killed run left half-written. Main process."""
        for path in self._folder.glob(".step-*.partial"):
            shutil.rmtree(path)

    def commit(self, step: int) -> None:
        """Gives the complete one its name and removes the oldest beyond the number to keep. Main process."""
        final = self._folder / f"step-{step:08d}"
        if final.exists():
            shutil.rmtree(final)
        os.replace(self.partial_path(step), final)
        for path in self._complete()[: -self._keep_last_n]:
            # Renamed first, so that a kill in the middle of the removal leaves nothing that looks complete.
            doomed = path.with_name(f".{path.name}.partial")
            os.replace(path, doomed)
            shutil.rmtree(doomed)

    def _complete(self) -> list[Path]:
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(path for path in found if _CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir())


def _folder_bytes(folders: Iterable[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def write_progress(folder: Path, progress: TrainingProgress) -> None:
    """Writes progress.json into a checkpoint."""
    (folder / PROGRESS_FILE).write_text(json.dumps(vars(progress), indent=1) + "\n", encoding="utf-8")


def read_progress(folder: Path) -> TrainingProgress:
    """Reads progress.json of a checkpoint.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return TrainingProgress(**json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"checkpoint '{folder}' is damaged ({error}); remove it to resume from the one before") from (
            error
        )


def check_output_writable(output: Path, required_bytes: int) -> None:
    """Holds, before the first step, that the folder can be written and has room for `required_bytes` bytes.

    Raises:
        InputError: it cannot, or has not.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        raise InputError(f"output '{output}' cannot be written: {error.strerror}; choose another folder") from error
    free = shutil.disk_usage(output).free
    if free < required_bytes:
        raise InputError(
            f"output '{output}' has {free / 2**30:.2f} GiB free and the run's checkpoints need "
            f"{required_bytes / 2**30:.2f}; "
            "free some, choose another folder or lower checkpoints.keep_last_n"
        )


def check_same_config(output: Path, global_batch_size: int, config: TrainConfig) -> None:
    """Holds that a run is resumed with the configuration that decides its weights; run.json keeps the first one's.

    How a global batch is spread over processes and accumulation may change (not their number under ZeRO, which a
    checkpoint tells), and so may `MUTABLE_ON_RESUME`. A key that was not known
    when the run was begun had its default.

    Raises:
        InputError: it was begun with another; names the key and both values.
    """
    path, now = output / "run.json", {"global batch": global_batch_size, **_flatten_immutable(asdict(config))}
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return
    try:
        begun = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"'{path}' is damaged ({error}); choose another output folder") from error
    begun = {**_flatten_immutable(asdict(TrainConfig())), **begun}
    for key in sorted(now.keys() | begun.keys()):
        if begun.get(key) != now.get(key):
            raise InputError(
                f"output '{output}' holds a run with {key} = {begun.get(key)!r}, not {now.get(key)!r}; "
                "resume with the same configuration or choose another output folder"
            )


def check_same_manifests(output: Path, manifests: Sequence[str]) -> None:
    """Holds that a run is resumed with the manifests that it was begun with, by their content; clips.json keeps it.

    With more clips, or others, the order of the data would be another from the next step on, and motion constants that
    are fitted on them too.

    Raises:
        InputError: one was changed.
    """
    path, now = output / "clips.json", {manifest: hash_file(Path(manifest)) for manifest in manifests}
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return
    begun = read_json(path)
    changed = [manifest for manifest, content in now.items() if begun.get(manifest) != content]
    if changed:
        raise InputError(
            f"'{changed[0]}' is not what the run in '{output}' was begun with; put it back, or choose another output "
            "folder (stage.init_from goes on from an adapter)"
        )


def _flatten_immutable(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flat, `a.b.c` -> value as JSON gives it back, without what may change."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if key in MUTABLE_ON_RESUME:
            continue
        if isinstance(value, dict):
            flat.update(_flatten_immutable(value, f"{key}."))
        else:
            flat[key] = value.value if isinstance(value, Enum) else value
    return flat
