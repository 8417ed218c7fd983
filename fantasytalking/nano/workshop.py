"""Where nano is built: folders, device, and the project's own scripts."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fantasytalking.config import CONFIGS
from fantasytalking.errors import InputError
from fantasytalking.models.presets import ModelConfig, load_model_config
from fantasytalking.nano.config import BuildConfig, ScriptConfig

logger = logging.getLogger(__name__)

MOST_PROCESSES = 16


@dataclass(frozen=True)
class Workshop:
    """What every step of the build is given."""

    config: BuildConfig
    output: Path
    """Where the finished pipeline goes."""

    @property
    def work(self) -> Path:
        """Everything on the way."""
        return Path(self.config.work)

    @property
    def components(self) -> Path:
        """The diffusers folder that grows step by step, or the finished one that takes its place."""
        return Path(self.config.components) if self.config.components else self.work / "components"

    @property
    def corpus(self) -> Path:
        """The prepared clips."""
        return self.work / "corpus"

    @property
    def model(self) -> ModelConfig:
        """Sizes of the transformer, and so the widths of the encoders."""
        return load_model_config(self.config.model)

    @property
    def device(self) -> torch.device:
        """Where the components are trained.

        Raises:
            InputError: a GPU is asked for and there is none.
        """
        wanted = self.config.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise InputError("device is 'cuda', but there is no CUDA device; use device=cpu")
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def processes(self) -> int:
        """That draw, speak and prepare."""
        return self.config.processes or min(MOST_PROCESSES, len(os.sched_getaffinity(0)))

    def folder(self, step: str) -> Path:
        """A step's own folder, made when it is not there."""
        path = self.work / step
        path.mkdir(parents=True, exist_ok=True)
        return path

    def train(self, script: str, chosen: ScriptConfig, base: Path, *more: str) -> None:
        """Runs a training script of the project, which goes on where it was stopped.

        Raises:
            InputError: it ended with an error, which it has told.
        """
        settings = [f"model={self.config.model}", f"base={base}", f"seed={self.config.seed}", *more]
        manifest = self.corpus / "manifest.jsonl"
        settings += [f"data.manifests=[{manifest}]", f"data.text_length={self.config.text_length}"]
        settings.append(f"stage.loss.sigmas.shift={self.config.shift}")
        if self.device.type == "cuda":
            settings.append("attention=native")  # the plain one of the YAML is for processors
        run_script([script_path(script), "--config", str(CONFIGS / chosen.config), *settings, *chosen.overrides], {})

    def prepare(self, videos: Path) -> None:
        """Runs scripts/prepare_data.py over `videos`, on the processor's cores, since tracking is most of its work.

        Raises:
            InputError: as `train`.
        """
        chosen = self.config.prepare
        command = [script_path("prepare_data.py"), "--input", str(videos), "--output", str(self.corpus)]
        size = self.config.prepared_size or self.config.size
        command += ["--config", str(CONFIGS / chosen.config), f"components={self.components}", "device=cpu"]
        command += [f"buckets=[{size}x{size}]"]
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "accelerate" / "ddp.yaml")]
        launcher += ["--num_processes", str(self.processes), "--main_process_port", "0"]
        alone = self.processes == 1
        run_script([*([] if alone else launcher), *command, *chosen.overrides], {"CUDA_VISIBLE_DEVICES": ""})


def run_script(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs a script of the project in a process of its own, which tells the rest.

    Args:
        command: of Python: options, script, arguments.
        environment: added to this process's.

    Raises:
        InputError: it ended with an error, which it has told.
    """
    root = str(CONFIGS.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    finished = subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": paths, **environment}, check=False
    )
    if finished.returncode == -2 or finished.returncode == 130:
        raise KeyboardInterrupt
    if finished.returncode != 0:
        names = [Path(part).name for part in command if part.endswith(".py")]
        raise InputError(
            f"{names[0]} ended with code {finished.returncode}, see what it told above; "
            "the same command goes on where it stopped"
        )


def script_path(name: str) -> str:
    """Of a script of the project."""
    return str(CONFIGS.parent / "scripts" / name)
