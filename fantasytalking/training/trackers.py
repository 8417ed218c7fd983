"""Logs a run to tensorboard and wandb, with its configuration."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available

from fantasytalking.common.errors import ErrorCode, InputError, install_command
from fantasytalking.training.config import TrainConfig, WandbMode

WANDB_ID_FILE = "wandb_id.txt"
"""File of a run's folder with the id of its wandb run, so that a resumed run continues it."""
_WANDB_FOLDER = re.compile(r"(?:offline-)?run-\d{8}_\d{6}-(.+)")


def check_trackers_installed(names: Sequence[str]) -> None:
    """Validates that the trackers of a run are installed.

    Raises:
        InputError: one is not; the message has the command that installs it.
    """
    installed = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    missing = [name for name in names if not installed[name]()]
    if missing:
        raise InputError(
            f"logging.trackers has '{missing[0]}', which is not installed: {install_command('train')}",
            code=ErrorCode.unsupported,
            field="logging.trackers",
            value=missing[0],
        )


class Trackers:
    """Logs to tensorboard, wandb, both or neither."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig) -> None:
        self._accelerator, self._config = accelerator, config

    def start(self) -> None:
        """Opens the trackers and logs the configuration; a resumed run continues its wandb run."""
        config = self._config
        if not config.logging.trackers:
            return
        options: dict[str, dict[str, Any]] = {}
        if "wandb" in config.logging.trackers:
            options["wandb"] = {
                "mode": WandbMode(config.logging.wandb_mode).value,
                "dir": config.output,
                "id": wandb_run_id(Path(config.output)) if self._accelerator.is_main_process else None,
                "resume": "allow",
            }
        self._accelerator.init_trackers(config.logging.project, config=flat_settings(config), init_kwargs=options)

    def log(self, values: dict[str, float], step: int) -> None:
        """Logs numbers of a step."""
        if self._config.logging.trackers:
            self._accelerator.log(values, step=step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Logs an image file."""
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        for tracker in self._accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: pixels[None]}, step=step, **layout)

    def log_video(self, name: str, path: Path, step: int) -> None:
        """Logs a video file with audio to wandb; tensorboard does not support it."""
        if "wandb" in self._config.logging.trackers and self._accelerator.is_main_process:
            import wandb

            self._accelerator.get_tracker("wandb").log({name: wandb.Video(str(path))}, step=step)

    def finish(self) -> None:
        """Closes the trackers and disconnects the processes."""
        self._accelerator.end_training()


def wandb_run_id(output: Path) -> str:
    """Returns the id of a run's wandb run, and draws one at the first start."""
    path = output / WANDB_ID_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    # Earlier releases derived ids from the path, and only wandb's folder has them.
    started = [_WANDB_FOLDER.fullmatch(entry.name) for entry in sorted((output / "wandb").glob("*run-*"))]
    run_id = next((match[1] for match in reversed(started) if match), uuid4().hex)
    path.write_text(f"{run_id}\n", encoding="utf-8")
    return run_id


def flat_settings(config: TrainConfig) -> dict[str, int | float | str | bool]:
    """Returns the configuration as `section.key` -> value, in types that every tracker shows."""
    return dict(_flatten(asdict(config), ""))


def _flatten(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, Enum):
            flat.append((prefix + name, value.value))
        else:
            flat.append((prefix + name, value if isinstance(value, int | float | str) else json.dumps(value)))
    return flat
