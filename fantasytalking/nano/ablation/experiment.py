"""The papers' ablations in miniature: every row trained, generated and scored by public commands.

Rows differ in what a file like configs/nano/ablation.yaml says of them; steps, clips, base and encoders are the same.
Every command resumes where it stopped, so the study does.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fantasytalking.common.config import CONFIGS_FOLDER
from fantasytalking.common.config_aliases import restore_old_keys
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, hash_file
from fantasytalking.evaluation.report.results import RESULTS_FILE, EvaluationResults
from fantasytalking.evaluation.runner import PROTOCOL_FILE
from fantasytalking.evaluation.weights import NANO_FACE_WEIGHTS, NANO_READER_WEIGHTS
from fantasytalking.nano.ablation.config import AblationConfig, AblationRowConfig, AblationTask
from fantasytalking.nano.ablation.motion_control import motion_control_table
from fantasytalking.nano.config import VideosConfig
from fantasytalking.nano.context import run_command
from fantasytalking.nano.corpora.video_corpus import CorpusPart, plan_held_out_parts, render_videos
from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan

logger = logging.getLogger(__name__)

ROW_SETTINGS_FILE = "settings.json"
"""In a row's folder: what it is made with."""
HASHED_COMPONENTS = ("transformer", "vae", "audio_encoder")


@dataclasses.dataclass(frozen=True)
class AblationRun:
    """A row with one of its seeds."""

    row: AblationRowConfig
    seed: int

    @property
    def name(self) -> str:
        """In the table."""
        return self.row.name if self.row.num_seeds == 1 else f"{self.row.name}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Below the work folder."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)


class AblationStudy:
    """All rows of a configuration."""

    def __init__(self, config: AblationConfig, processes: int) -> None:
        """`processes` draw and measure."""
        self.config, self.processes, self.work_dir = config, processes, Path(config.work_dir)
        self.references = self.work_dir / "references"

    def run(self) -> Path:
        """Does what is not done yet; gives the table.

        Raises:
            InputError: components are missing, or a command fails.
        """
        config = self.config
        for path, options in ((config.base, ""), (config.expression_reader, " --only expression_reader")):
            if path is not None and not Path(path).exists():
                raise InputError(f"'{path}' is not there; make it: fantasytalking build-nano{options}")
        self._freeze_benchmarks()
        results = []
        for trained in self._planned_runs():
            logger.info(f"row '{trained.name}'")
            check_row_settings(self.work_dir / trained.folder, trained, self.config)
            adapter = self._train_run(trained)
            results.append(
                self._generate_and_evaluate(trained.name, trained.folder, adapter, trained.row.infer_overrides)
            )
            if self.config.motion_control is not None and self.config.motion_control.row == trained.row.name:
                self._evaluate_motion_control(trained, adapter)
        run_command("evaluate", "--table", *results, "--output", self.work_dir, "--title", self.config.title)
        return self.work_dir / "table.html"

    def _planned_runs(self) -> Iterator[AblationRun]:
        for row in self.config.rows:
            yield from (AblationRun(row, seed) for seed in range(row.num_seeds))

    def _freeze_benchmarks(self) -> None:
        """Held-out people with held-out sentences, and the benchmarks that they make."""
        config = self.config
        portions = plan_held_out_parts(
            VideosConfig(num_identities=1, group_size=1, sentences_per_person=1, num_held_out=config.num_clips)
        )
        render_videos(portions, self.references, config.size, 0, self.processes, config.zoom)
        size = [f"width={config.width}", f"height={config.size}"]
        if config.task is AblationTask.expression:
            self._render_cross_ground_truth(portions)
            size += ["task=cross", f"people={config.people}"]
        asked = ["--benchmark", config.task.benchmark, "--references", self.references]
        protocols = {self.work_dir / PROTOCOL_FILE: config.max_seconds}
        if config.motion_control is not None:
            protocols[self.work_dir / config.control_folder / PROTOCOL_FILE] = config.control_seconds
        for protocol, seconds in protocols.items():
            if not protocol.is_file():
                run_command("freeze-benchmark", *asked, "--output", protocol, *size, f"seconds={seconds}")

    def _render_cross_ground_truth(self, parts: Sequence[CorpusPart]) -> None:
        """What the held-out people make of one another's expressions, by the renderer."""
        config = self.config
        everyone = [identity for portion in parts for identity in portion.identities]
        if config.people > 1:
            said, size = parts[0].sentences, (config.width, config.size)
            plan = GroupCorpusPlan(everyone, said, config.people, size, closeness=config.zoom)
            for _ in make_corpus(plan, self.references / "groups", self.processes):
                pass
        asked = ["--references", self.references, "--people", config.people, "--clips", config.num_clips]
        run_command("render-cross-ground-truth", *asked)

    def _train_run(self, run: AblationRun) -> Path | None:
        """Both stages, or one; gives the adapter of the last. None for a row that is not trained."""
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
        """One stage, unless it was run; gives its adapter."""
        output = self.work_dir / run.folder / stage
        if not (output / "adapter").is_dir():
            settings = [
                f"output={output}",
                f"seed={run.seed}",
                f"stage.steps={steps}",
                f"stage.init_from={initial_weights}",
            ]
            settings += [f"base={self.config.base}", f"data.manifests=[{self.config.manifest}]"]
            more = (*self.config.train_overrides, *run.row.train_overrides)
            run_command("train", "--config", CONFIGS_FOLDER / "nano" / f"{stage}.yaml", *settings, *more)
        return output / "adapter"

    def _generate_and_evaluate(
        self, name: str, folder: str, adapter: Path | None, infer_overrides: Sequence[str], protocol: Path | None = None
    ) -> Path:
        """Generates and measures by this protocol, or by that of the rows; gives results.json."""
        protocol = protocol or self.work_dir / PROTOCOL_FILE
        videos, output = self.work_dir / folder / "videos", self.work_dir / folder / "scores"
        asked = ["--manifest", protocol, "--references", self.references, "--output", videos]
        settings = [f"base={self.config.base}", f"sizes=[{self.config.width}x{self.config.size}]"]
        role = "adapter" if self.config.task is AblationTask.speech else "expression_adapter"
        settings += [f"{role}={adapter}"] if adapter else []
        if not (output / RESULTS_FILE).is_file():
            run_command("generate-benchmark", *asked, *settings, *self.config.infer_overrides, *infer_overrides)
            given = ["--benchmark", self.config.task.benchmark, "--references", self.references]
            given += ["--predictions", videos]
            given += [
                "--manifest",
                protocol,
                "--weights",
                self._metric_weights_folder(),
                "--output",
                output,
                "--name",
                name,
            ]
            given += ["--metrics", ",".join(self.config.metrics), "--processes", self.processes]
            run_command("evaluate", *given)
        return output / RESULTS_FILE

    def _evaluate_motion_control(self, run: AblationRun, adapter: Path | None) -> None:
        """The same model asked for several intensities, and a table of how what is measured follows."""
        control = self.config.motion_control
        assert control is not None
        below, results = self.config.control_folder, []
        for intensity in control.intensities:
            asked = [*run.row.infer_overrides, f"expression_motion={intensity}", f"body_motion={intensity}"]
            name, folder = f"{run.name}, motion {intensity:g}", f"{below}/{run.folder}_motion_{intensity:g}"
            results.append(
                self._generate_and_evaluate(name, folder, adapter, asked, self.work_dir / below / PROTOCOL_FILE)
            )
        lines = motion_control_table(control.intensities, [EvaluationResults.load(path) for path in results])
        with atomic_write(self.work_dir / below / f"{run.folder}.md") as temporary:
            temporary.write_text("\n".join([f"# {run.name}", "", *lines]) + "\n", encoding="utf-8")

    def _metric_weights_folder(self) -> Path:
        """A folder with nano's own networks under the names by which metrics look for them."""
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
    """Notes in a row's folder what the row is made with, weights included, or checks that it was begun with the same.

    Raises:
        InputError: it is not.
    """
    deciding = dataclasses.asdict(config) | {"title": "", "rows": [], "motion_control": None, "work_dir": ""}
    # Under the keys of earlier releases, so that rows that were begun before keys were renamed can be resumed.
    settings = restore_old_keys(AblationConfig, deciding)
    settings |= {"row": restore_old_keys(AblationRowConfig, dataclasses.asdict(run.row)), "seed": run.seed}
    settings |= {"weights": _component_hashes(config.base)}
    note, text = folder / ROW_SETTINGS_FILE, json.dumps(settings, indent=1, default=lambda choice: choice.value) + "\n"
    if not note.is_file():
        with atomic_write(note) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif note.read_text(encoding="utf-8") != text:
        raise InputError(f"row '{run.name}' in '{folder}' was begun with other settings; remove it or set work_dir=")


def _component_hashes(components: str) -> dict[str, str]:
    """Of the networks that make the pictures: trained again, they are another model."""
    files = [path for part in HASHED_COMPONENTS for path in sorted((Path(components) / part).glob("*.safetensors"))]
    return {f"{path.parent.name}/{path.name}": hash_file(path) for path in files}
