"""Runs an ablation: trains, generates and evaluates every row with the package's commands.

Rows differ in their settings in a file such as configs/nano/ablation.yaml; steps, clips, base and encoders are the
same. Every command resumes an interrupted run, so that the ablation does too.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fantasytalking.common.config import CONFIGS_FOLDER
from fantasytalking.common.config_aliases import restore_old_keys
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, atomic_write_text, hash_file
from fantasytalking.common.hub import resolve_local
from fantasytalking.common.locks import lock_output
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.evaluation.report.results import RESULTS_FILE, EvaluationResults
from fantasytalking.evaluation.runner import PROTOCOL_FILE
from fantasytalking.evaluation.weights import NANO_FACE_WEIGHTS, NANO_READER_WEIGHTS
from fantasytalking.media import write_image
from fantasytalking.nano.ablation.config import AblationConfig, AblationRowConfig, AblationTask
from fantasytalking.nano.ablation.motion_control import motion_control_table
from fantasytalking.nano.config import VideosConfig
from fantasytalking.nano.context import run_command
from fantasytalking.nano.corpora.video_corpus import CorpusPart, plan_held_out_parts, render_videos
from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.render.framed_portrait import PortraitFraming, render_framed_portrait

logger = logging.getLogger(__name__)

ROW_SETTINGS_FILE = "settings.json"
"""File in a row's folder with the settings and weights that determine the row."""
HASHED_COMPONENTS = ("transformer", "vae", "audio_encoder")
"""Components whose weights are part of these settings."""


@dataclasses.dataclass(frozen=True)
class AblationRun:
    """A row with one of its training seeds."""

    row: AblationRowConfig
    seed: int

    @property
    def name(self) -> str:
        """Name of the row in the table."""
        return self.row.name if self.row.num_seeds == 1 else f"{self.row.name}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Folder of the run below the work folder."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)


class AblationStudy:
    """Trains, generates and evaluates all rows of a configuration.

    Args:
        config: configuration of the ablation.
        processes: number of processes that render and evaluate.
    """

    def __init__(self, config: AblationConfig, processes: int) -> None:
        config = dataclasses.replace(config, base=str(resolve_local(config.base)))
        self.config, self.processes, self.work_dir = config, processes, Path(config.work_dir)
        self.references = self.work_dir / "references"

    def run(self) -> Path:
        """Runs all steps that are not completed yet.

        Returns:
            the path of the table.

        Raises:
            InputError: the base or the expression reader is missing, a row was started with other settings, or a
                command fails.
        """
        config = self.config
        requirements = (
            ("base", config.base, ""),
            ("expression_reader", config.expression_reader, " --only expression_reader"),
        )
        for key, path, options in requirements:
            if path is not None and not Path(path).exists():
                raise InputError(
                    f"{key} '{path}' does not exist; build it with: fantasytalking build-nano{options}",
                    code=ErrorCode.missing_weights,
                    field=key,
                    value=path,
                )
        with lock_output(self.work_dir):
            return self._run_rows()

    def _run_rows(self) -> Path:
        self._freeze_benchmarks()
        results = []
        for run in self._planned_runs():
            logger.info(f"row '{run.name}'")
            check_row_settings(self.work_dir / run.folder, run, self.config)
            adapter = self._train_run(run)
            results.append(self._generate_and_evaluate(run.name, run.folder, adapter, run.row))
            if self.config.motion_control is not None and self.config.motion_control.row == run.row.name:
                self._evaluate_motion_control(run, adapter)
        run_command("evaluate", "--table", *results, "--output", self.work_dir, "--title", self.config.title)
        return self.work_dir / "table.html"

    def _planned_runs(self) -> Iterator[AblationRun]:
        for row in self.config.rows:
            yield from (AblationRun(row, seed) for seed in range(row.num_seeds))

    def _freeze_benchmarks(self) -> None:
        """Renders the held-out clips and writes the protocols of the benchmarks."""
        config = self.config
        parts = plan_held_out_parts(
            VideosConfig(num_identities=1, group_size=1, sentences_per_person=1, num_held_out=config.num_clips)
        )
        render_videos(parts, self.references, config.size, 0, self.processes, config.zoom)
        size = [f"width={config.width}", f"height={config.size}"]
        if config.task is AblationTask.expression:
            self._render_cross_ground_truth(parts)
            size += ["task=cross", f"people={config.people}"]
        options = ["--benchmark", config.task.benchmark, "--references", self.references]
        protocols = {self.work_dir / PROTOCOL_FILE: config.max_seconds}
        if config.motion_control is not None:
            protocols[self.work_dir / config.control_folder / PROTOCOL_FILE] = config.control_seconds
        for protocol, seconds in protocols.items():
            if not protocol.is_file():
                run_command("freeze-benchmark", *options, "--output", protocol, *size, f"max_seconds={seconds}")

    def _render_cross_ground_truth(self, parts: Sequence[CorpusPart]) -> None:
        """Renders the ground truth: the held-out people with one another's expressions."""
        config = self.config
        identities = [identity for part in parts for identity in part.identities]
        if config.people > 1:
            sentences, size = parts[0].sentences, (config.width, config.size)
            plan = GroupCorpusPlan(identities, sentences, config.people, size, zoom=config.zoom)
            for _ in make_corpus(plan, self.references / "groups", self.processes):
                pass
        options = ["--references", self.references, "--num-people", config.people, "--max-clips", config.num_clips]
        run_command("render-cross-ground-truth", *options)

    def _train_run(self, run: AblationRun) -> Path | None:
        """Trains the stages of a run and returns the last adapter, None for a row that is not trained."""
        if run.row.portrait_stage:
            return self._train_stage(run, "portrait", self.config.steps, self.config.base)
        if run.row.stage1_fraction is None:
            return None
        first = round(self.config.steps * run.row.stage1_fraction)
        adapter: Path | None = None
        for number, steps in ((1, first), (2, self.config.steps - first)):
            if steps:
                adapter = self._train_stage(run, f"stage{number}", steps, adapter or "null")
        return adapter

    def _train_stage(self, run: AblationRun, stage: str, steps: int, initial_weights: Path | str) -> Path:
        """Trains one stage, unless its adapter exists, and returns the adapter."""
        output = self.work_dir / run.folder / stage
        if not (output / "adapter").is_dir():
            settings = [
                f"output={output}",
                f"seed={run.seed}",
                f"stage.steps={steps}",
                f"stage.init_from={initial_weights}",
            ]
            settings += [f"base={self.config.base}", f"data.manifests=[{self.config.manifest}]"]
            overrides = (*self.config.train_overrides, *run.row.train_overrides)
            run_command("train", "--config", CONFIGS_FOLDER / "nano" / f"{stage}.yaml", *settings, *overrides)
        return output / "adapter"

    def _generate_and_evaluate(
        self, name: str, folder: str, adapter: Path | None, row: AblationRowConfig, protocol: Path | None = None
    ) -> Path:
        """Generates and evaluates the clips of `protocol`, by default that of the rows; returns results.json."""
        protocol = protocol or self.work_dir / PROTOCOL_FILE
        videos, output = self.work_dir / folder / "videos", self.work_dir / folder / "scores"
        inputs = ["--manifest", protocol, "--references", self.references]
        settings = [f"base={self.config.base}", f"sizes=[{self.config.width}x{self.config.size}]"]
        role = "adapter" if self.config.task is AblationTask.speech else "expression_adapter"
        settings += [f"{role}={adapter}"] if adapter else []
        if not (output / RESULTS_FILE).is_file():
            settings += [*self.config.infer_overrides, *row.infer_overrides]
            portraits = self._render_portraits(row.framing, folder, protocol) if row.framing is not None else []
            run_command("generate-benchmark", *inputs, *portraits, "--output", videos, *settings)
            options = ["--benchmark", self.config.task.benchmark, *inputs, "--predictions", videos, "--output", output]
            options += ["--weights", self._metric_weights_folder(), "--name", name]
            options += ["--metrics", ",".join(self.config.metrics), "--num-processes", self.processes]
            run_command("evaluate", *options)
        return output / RESULTS_FILE

    def _render_portraits(self, framing: PortraitFraming, folder: str, protocol: Path) -> list[object]:
        """Renders the portrait of every clip in a framing; returns the options of generation with which it is used."""
        output = self.work_dir / folder / "portraits"
        output.mkdir(parents=True, exist_ok=True)
        for clip in BenchmarkProtocol.load(protocol).clips:
            path = output / f"{clip.name}.png"
            if not path.is_file():
                number = int(clip.identity.removeprefix("id"))
                write_image(path, render_framed_portrait(make_identity(number), framing))
        return ["--portraits", output]

    def _evaluate_motion_control(self, run: AblationRun, adapter: Path | None) -> None:
        """Evaluates a model at several motion intensities and writes a table of requested against measured motion."""
        control = self.config.motion_control
        assert control is not None
        parent, results = self.config.control_folder, []
        for intensity in control.intensities:
            overrides = [*run.row.infer_overrides, f"expression_motion={intensity}", f"body_motion={intensity}"]
            row = dataclasses.replace(run.row, infer_overrides=overrides)
            name, folder = f"{run.name}, motion {intensity:g}", f"{parent}/{run.folder}_motion_{intensity:g}"
            protocol = self.work_dir / parent / PROTOCOL_FILE
            results.append(self._generate_and_evaluate(name, folder, adapter, row, protocol))
        lines = motion_control_table(control.intensities, [EvaluationResults.load(path) for path in results])
        atomic_write_text(self.work_dir / parent / f"{run.folder}.md", "\n".join([f"# {run.name}", "", *lines]) + "\n")

    def _metric_weights_folder(self) -> Path:
        """Returns a folder with copies of nano's networks under the file names that metrics expect."""
        folder = self.work_dir / "weights"
        (face,) = (Path(self.config.base) / "face_encoder").glob("*.onnx")
        networks = {NANO_FACE_WEIGHTS.file: face}
        if self.config.expression_reader is not None:
            networks[NANO_READER_WEIGHTS.file] = Path(self.config.expression_reader)
        for name, network in networks.items():
            if not (folder / name).is_file():
                with atomic_write(folder / name) as temporary:
                    shutil.copyfile(network, temporary)
        return folder


def check_row_settings(folder: Path, run: AblationRun, config: AblationConfig) -> None:
    """Writes the settings of a row, with hashes of its weights, or checks them against those it was started with.

    Raises:
        InputError: the row was started with other settings.
    """
    determining = dataclasses.asdict(config) | {"title": "", "rows": [], "motion_control": None, "work_dir": ""}
    # Under the keys of earlier releases, so that rows started before keys were renamed can be resumed.
    settings = restore_old_keys(AblationConfig, determining)
    row = dataclasses.asdict(run.row)
    if run.row.framing is None:
        del row["framing"]  # as before rows had one
    settings |= {"row": restore_old_keys(AblationRowConfig, row), "seed": run.seed}
    settings |= {"weights": _component_hashes(config.base)}
    note, text = folder / ROW_SETTINGS_FILE, json.dumps(settings, indent=1, default=lambda choice: choice.value) + "\n"
    if not note.is_file():
        atomic_write_text(note, text)
    elif note.read_text(encoding="utf-8") != text:
        raise InputError(
            f"row '{run.name}' in '{folder}' was started with other settings; remove the folder or set work_dir=",
            code=ErrorCode.output_exists,
            field="work_dir",
            value=str(folder),
        )


def _component_hashes(components: str) -> dict[str, str]:
    """Returns hashes of the weights of the generating components, by file; retrained weights are another model."""
    files = [path for part in HASHED_COMPONENTS for path in sorted((Path(components) / part).glob("*.safetensors"))]
    return {f"{path.parent.name}/{path.name}": hash_file(path) for path in files}
