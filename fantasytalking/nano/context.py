"""Where nano is built: folders, device, and the project's own commands."""

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
from fantasytalking.common.errors import InputError
from fantasytalking.common.resources import IS_INSTALLED, ROOT
from fantasytalking.data.manifest import MANIFEST_FILE, REJECTIONS_FILE
from fantasytalking.models.presets import ModelConfig, load_model_config
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE
from fantasytalking.nano.config import BuildConfig, ScriptRunConfig
from fantasytalking.nano.training_log import training_summary
from fantasytalking.pipeline.model_facts import EXPRESSION_ENCODER_FOLDER

logger = logging.getLogger(__name__)

MAX_BUILD_PROCESSES = 16
PREPARED_SIZE_MULTIPLE = 16
"""Pixels of which sides of prepared pictures are multiples."""


@dataclass(frozen=True)
class BuildContext:
    """What every step of the build is given."""

    config: BuildConfig
    output: Path
    """Where the finished pipeline goes."""

    @property
    def work_dir(self) -> Path:
        """Everything on the way."""
        return Path(self.config.work_dir)

    @property
    def components(self) -> Path:
        """The diffusers folder that grows step by step, or the finished one that takes its place."""
        return (
            Path(self.config.pretrained_components)
            if self.config.pretrained_components
            else self.work_dir / "components"
        )

    @property
    def corpus(self) -> Path:
        """The prepared clips."""
        return self.work_dir / "corpus"

    @property
    def portrait_corpus(self) -> Path:
        """The prepared clips with what drives their faces, of one and of several people."""
        return self.work_dir / "portrait_corpus"

    @property
    def extended_corpus(self) -> Path:
        """The prepared clips of further people with words of their own."""
        return self.work_dir / "more_corpus"

    @property
    def expression_encoder(self) -> Path:
        """The trained encoder, or that of a finished folder; apart from the components, which `pack` takes whole."""
        finished = self.config.pretrained_components
        return (
            Path(finished) / EXPRESSION_ENCODER_FOLDER
            if finished
            else self.work_dir / EXPRESSION_ENCODER_FOLDER / "finished"
        )

    @property
    def motion_normalizer(self) -> Path:
        """What intensities of motion mean: as in the prepared clips, or as in a finished folder."""
        return Path(self.config.pretrained_components or self.corpus) / MOTION_NORMALIZER_FILE

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
        return self.config.num_processes or min(MAX_BUILD_PROCESSES, len(os.sched_getaffinity(0)))

    def step_folder(self, step: str) -> Path:
        """A step's own folder, made when it is not there."""
        path = self.work_dir / step
        path.mkdir(parents=True, exist_ok=True)
        return path

    def prepared_size(self, pixels: int) -> int:
        """So many pixels of a drawn picture, in a prepared one."""
        size = self.config.prepared_size or self.config.image_size
        return PREPARED_SIZE_MULTIPLE * round(pixels * size / self.config.image_size / PREPARED_SIZE_MULTIPLE)

    def run_training(
        self,
        script_config: ScriptRunConfig,
        base: Path,
        *overrides: str,
        corpora: Sequence[Path] | None = None,
    ) -> None:
        """Trains a stage in a process of its own, which resumes where it was stopped.

        Args:
            script_config: the stage's settings.
            base: what is trained on.
            overrides: further settings.
            corpora: None: `self.corpus` alone.

        Raises:
            InputError: it ended with an error, which it has told.
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
        """Trains stage 2 in the folder `name` on from the adapter of the run `previous_run`; what is known of the
        training.

        Raises:
            InputError: as `run_training`.
        """
        settings = [f"output={self.work_dir / name}", f"stage.init_from={self.work_dir / previous_run / 'adapter'}"]
        self.run_training(script_config, self.components, *settings, corpora=corpora)
        return training_summary(self.work_dir / name)

    def run_preparation(
        self, script_config: ScriptRunConfig, videos: Path, corpus: Path, components: Path, *overrides: str
    ) -> None:
        """Prepares `videos` on the processor's cores, since tracking is most of the work.

        Raises:
            InputError: as `run_training`.
        """
        config = CONFIGS_FOLDER / script_config.config
        arguments = ["--input", videos, "--output", corpus, "--config", config, f"components={components}"]
        arguments += ["device=cpu", *overrides, *script_config.overrides]
        launcher = ["accelerate.commands.launch", "--config_file", str(CONFIGS_FOLDER / "accelerate" / "ddp.yaml")]
        launcher += ["--num_processes", str(self.processes), "--main_process_port", "0"]
        several = launcher if self.processes > 1 else []
        run_command("prepare", *arguments, launcher=several, variables={"CUDA_VISIBLE_DEVICES": ""})


def corpus_summary(corpus: Path) -> dict[str, Any]:
    """Clips of a prepared corpus, and those that were left out."""
    lines = {name: (corpus / name).read_text(encoding="utf-8").count("\n") for name in (MANIFEST_FILE, REJECTIONS_FILE)}
    return {"clips": lines[MANIFEST_FILE], "left_out": lines[REJECTIONS_FILE]}


def run_command(
    command: str, *arguments: object, launcher: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> None:
    """Runs a command of the package in a process of its own, which reports the rest.

    Args:
        command: as on the command line: train, prepare, evaluate ...
        arguments: of the command; written as text.
        launcher: a module that starts the command, with its options; none: the command is one process.
        variables: environment variables, added to those of this process.

    Raises:
        InputError: it ended with an error, which it has reported.
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
            f"'fantasytalking {command}' ended with code {finished.returncode}, see its output above; "
            "the same command resumes where it stopped"
        )
