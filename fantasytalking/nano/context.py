"""Folders, device and processes of a nano build, and runs of the package's commands within it."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fantasytalking.common.config import CONFIGS_FOLDER
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.resources import IS_INSTALLED, ROOT
from fantasytalking.data.manifest import MANIFEST_FILE, REJECTIONS_FILE
from fantasytalking.encoders.encoder_folders import EXPRESSION_ENCODER_FOLDER
from fantasytalking.models.presets import ModelConfig, load_model_config
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE
from fantasytalking.nano.config import BuildConfig, ScriptRunConfig
from fantasytalking.nano.trainers.config import NANO_GEOMETRY
from fantasytalking.nano.training_log import training_summary

logger = logging.getLogger(__name__)

MAX_BUILD_PROCESSES = 16


@dataclass(frozen=True)
class BuildContext:
    """Configuration and folders that every step of the build uses."""

    config: BuildConfig
    output: Path
    """Folder of the finished pipeline."""

    @property
    def work_dir(self) -> Path:
        """Folder of all intermediate results."""
        return Path(self.config.work_dir)

    @property
    def components(self) -> Path:
        """diffusers folder that the steps fill with components, or the folder of pretrained components."""
        return (
            Path(self.config.pretrained_components)
            if self.config.pretrained_components
            else self.work_dir / "components"
        )

    @property
    def corpus(self) -> Path:
        """Folder of the prepared clips of one person."""
        return self.work_dir / "corpus"

    @property
    def portrait_corpus(self) -> Path:
        """Folder of the prepared clips of one and of several people, with expression features."""
        return self.work_dir / "portrait_corpus"

    @property
    def extended_corpus(self) -> Path:
        """Folder of the prepared clips of further people with unique utterances."""
        return self.work_dir / "more_corpus"

    @property
    def extended_videos(self) -> Path:
        """Folder of the videos of these people."""
        return self.work_dir / "videos_more"

    @property
    def expression_encoder(self) -> Path:
        """Folder of the expression encoder, trained or pretrained. It is not in `components`, which `pack` copies."""
        finished = self.config.pretrained_components
        return (
            Path(finished) / EXPRESSION_ENCODER_FOLDER
            if finished
            else self.work_dir / EXPRESSION_ENCODER_FOLDER / "finished"
        )

    @property
    def motion_normalizer(self) -> Path:
        """File with the motion normalizer of the prepared clips, or of the pretrained components."""
        return Path(self.config.pretrained_components or self.corpus) / MOTION_NORMALIZER_FILE

    @property
    def model(self) -> ModelConfig:
        """Sizes of the transformer, which fix the widths of the encoders."""
        return load_model_config(self.config.model)

    @property
    def device(self) -> torch.device:
        """Device on which the components are trained.

        Raises:
            InputError: "cuda" is configured and there is no CUDA device.
        """
        requested = self.config.device
        if requested == "cuda" and not torch.cuda.is_available():
            raise InputError(
                "device is 'cuda', but there is no CUDA device; use device=cpu",
                code=ErrorCode.unsupported,
                field="device",
                value=requested,
            )
        return torch.device("cuda" if requested != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def processes(self) -> int:
        """Number of processes that render, synthesize speech and prepare clips."""
        return self.config.num_processes or min(MAX_BUILD_PROCESSES, len(os.sched_getaffinity(0)))

    def step_folder(self, step: str) -> Path:
        """Returns the folder of a step, which is created if it does not exist."""
        path = self.work_dir / step
        path.mkdir(parents=True, exist_ok=True)
        return path

    def prepared_size(self, pixels: int) -> int:
        """Scales a side of a rendered video in pixels to the prepared video, rounded to whole tokens."""
        size, step = self.config.prepared_size or self.config.image_size, NANO_GEOMETRY.token_pixels
        return step * round(pixels * size / self.config.image_size / step)

    def run_training(
        self,
        script_config: ScriptRunConfig,
        base: Path,
        *overrides: str,
        corpora: Sequence[Path] | None = None,
    ) -> None:
        """Runs the command `train`, which resumes an interrupted run.

        Args:
            script_config: its settings.
            base: folder of the base model.
            overrides: further key=value settings.
            corpora: folders of prepared clips; None for `self.corpus` alone.

        Raises:
            InputError: the script failed; it has printed its error.
        """
        settings = [f"model={self.config.model}", f"base={base}", f"seed={self.config.seed}", *overrides]
        manifests = ",".join(str(corpus / MANIFEST_FILE) for corpus in corpora or [self.corpus])
        settings += [f"data.manifests=[{manifests}]", f"data.max_text_tokens={self.config.max_text_tokens}"]
        settings.append(f"stage.loss.sigmas.shift={self.config.flow_shift}")
        config = CONFIGS_FOLDER / script_config.config
        run_command("train", "--config", config, *settings, *script_config.overrides)

    def resume_stage2(
        self, script_config: ScriptRunConfig, previous_run: str, name: str, corpora: Sequence[Path]
    ) -> dict[str, Any]:
        """Trains stage 2 in the folder `name`, starting from the adapter of the run `previous_run`.

        Returns:
            the summary of the training, as `training_summary`.

        Raises:
            InputError: as `run_training`.
        """
        settings = [f"output={self.work_dir / name}", f"stage.init_from={self.work_dir / previous_run / 'adapter'}"]
        self.run_training(script_config, self.components, *settings, corpora=corpora)
        return training_summary(self.work_dir / name)

    def run_preparation(
        self, script_config: ScriptRunConfig, videos: Path, corpus: Path, components: Path, *overrides: str
    ) -> None:
        """Runs the command `prepare` on `videos`, on the CPU's cores, since face tracking takes most of the time.

        Raises:
            InputError: as `run_training`.
        """
        config = CONFIGS_FOLDER / script_config.config
        arguments = ["--input", videos, "--output", corpus, "--config", config, f"base={components}"]
        arguments += ["device=cpu", *overrides, *script_config.overrides]
        launcher = ["accelerate.commands.launch", "--config_file", str(CONFIGS_FOLDER / "accelerate" / "ddp.yaml")]
        launcher += ["--num_processes", str(self.processes), "--main_process_port", "0"]
        several = launcher if self.processes > 1 else []
        run_command("prepare", *arguments, launcher=several, variables={"CUDA_VISIBLE_DEVICES": ""})


def corpus_summary(corpus: Path) -> dict[str, Any]:
    """Returns the number of clips of a prepared corpus, and of the clips that were rejected ("left_out")."""
    lines = {name: (corpus / name).read_text(encoding="utf-8").count("\n") for name in (MANIFEST_FILE, REJECTIONS_FILE)}
    return {"clips": lines[MANIFEST_FILE], "left_out": lines[REJECTIONS_FILE]}


def run_command(
    command: str, *arguments: object, launcher: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> None:
    """Runs a command of the package in a process of its own, whose output is passed through.

    Args:
        command: name of the command: train, prepare, evaluate ...
        arguments: arguments of the command, converted to text.
        launcher: a module that starts the command, with its options; empty for a single process.
        variables: variables added to the environment of this process.

    Raises:
        InputError: the command failed; it has printed its error.
    """
    started = ["-m", *launcher, "-m", "fantasytalking"] if launcher else ["-m", "fantasytalking"]
    environment = {**os.environ, **(variables or {})}
    if not IS_INSTALLED:  # a clone need not be installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    line = [sys.executable, *started, command, *map(str, arguments)]
    finished = subprocess.run(line, env=environment, check=False)
    if finished.returncode == -2 or finished.returncode == 130:
        raise KeyboardInterrupt
    if finished.returncode != 0:
        raise InputError(
            f"'fantasytalking {command}' ended with exit code {finished.returncode}, see its error above; "
            "run the same command again to resume",
            code=ErrorCode.unsupported,
            field=command,
            value=finished.returncode,
        )
