"""Summary of a training run from its log."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def training_summary(output: Path) -> dict[str, Any]:
    """Returns the steps, the mean loss of the first and last tenth, and the seconds per step of a run's log.jsonl."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if line["loss"] is not None]
    tenth = max(1, len(losses) // 10)
    return {
        "steps": lines[-1]["step"],
        "first_loss": float(np.mean(losses[:tenth])),
        "last_loss": float(np.mean(losses[-tenth:])),
        "seconds_a_step": float(np.mean([1 / line["steps_per_second"] for line in lines])),
    }
