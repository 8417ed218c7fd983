"""The papers' ablations in miniature: every row trained, generated and scored by public scripts.

Rows differ in what a file like configs/nano/ablation.yaml says of them; steps, clips, base and encoders are the same.
Every script goes on where it stopped, so the whole does.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fantasytalking.common.config import CONFIGS
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import hash_file, written_whole
from fantasytalking.evaluation.report.results import RESULTS, Results
from fantasytalking.evaluation.runner import PROTOCOL
from fantasytalking.evaluation.weights import NANO_FACE, NANO_READER
from fantasytalking.nano.ablation.config import AblationConfig, RowConfig, Task
from fantasytalking.nano.ablation.motion_control import control_lines
from fantasytalking.nano.config import VideosConfig
from fantasytalking.nano.context import run_script, script_path
from fantasytalking.nano.corpora.video_corpus import Portion, held_out_portions, make_videos
from fantasytalking.portrait_world.corpus.clip_corpus import make_corpus
from fantasytalking.portrait_world.corpus.group_corpus import GroupCorpusPlan

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
"""In a row's folder: what it is made with."""
MAKERS = ("transformer", "vae", "audio_encoder")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A row with one of its seeds."""

    row: RowConfig
    seed: int

    @property
    def name(self) -> str:
        """In the table."""
        return self.row.name if self.row.seeds == 1 else f"{self.row.name}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Below the work folder."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)


class Ablation:
    """All rows of a configuration."""

    def __init__(self, config: AblationConfig, processes: int) -> None:
        """`processes` draw and measure."""
        self.config, self.processes, self.work = config, processes, Path(config.work)
        self.references = self.work / "references"

    def run(self) -> Path:
        """Does what is not done yet; gives the table.

        Raises:
            InputError: components are missing, or a script fails.
        """
        config = self.config
        for path, options in ((config.components, ""), (config.reader, " --only expression_reader")):
            if path is not None and not Path(path).exists():
                raise InputError(f"'{path}' is not there; make it: python scripts/build_nano.py{options}")
        self._freeze()
        results = []
        for trained in self._trained():
            logger.info(f"row '{trained.name}'")
            claim(self.work / trained.folder, trained, self.config)
            adapter = self._train(trained)
            results.append(self._score(trained.name, trained.folder, adapter, trained.row.infer))
            if self.config.control is not None and self.config.control.row == trained.row.name:
                self._control(trained, adapter)
        self._script("evaluate.py", "--table", *results, "--output", self.work, "--title", self.config.title)
        return self.work / "table.html"

    def _trained(self) -> Iterator[Trained]:
        for row in self.config.rows:
            yield from (Trained(row, seed) for seed in range(row.seeds))

    def _freeze(self) -> None:
        """Held-out people with held-out sentences, and the benchmarks that they make."""
        config = self.config
        portions = held_out_portions(VideosConfig(identities=1, group=1, sentences=1, held_out=config.clips))
        make_videos(portions, self.references, config.size, 0, self.processes, config.closeness)
        size = [f"width={config.width}", f"height={config.size}"]
        if config.task is Task.expression:
            self._cross(portions)
            size += ["task=cross", f"people={config.people}"]
        asked = ["--benchmark", config.task.benchmark, "--references", self.references]
        protocols = {self.work / PROTOCOL: config.seconds}
        if config.control is not None:
            protocols[self.work / config.control_folder / PROTOCOL] = config.control_seconds
        for protocol, seconds in protocols.items():
            if not protocol.is_file():
                self._script("make_benchmark.py", *asked, "--output", protocol, *size, f"seconds={seconds}")

    def _cross(self, portions: Sequence[Portion]) -> None:
        """What the held-out people make of one another's expressions, by the renderer."""
        config = self.config
        everyone = [identity for portion in portions for identity in portion.identities]
        if config.people > 1:
            said, size = portions[0].sentences, (config.width, config.size)
            plan = GroupCorpusPlan(everyone, said, config.people, size, closeness=config.closeness)
            for _ in make_corpus(plan, self.references / "groups", self.processes):
                pass
        asked = ["--references", self.references, "--people", config.people, "--clips", config.clips]
        self._script("make_crossed.py", *asked)

    def _train(self, trained: Trained) -> Path | None:
        """Both stages, or one; gives the adapter of the last. None for a row that is not trained."""
        if trained.row.portrait:
            return self._run(trained, "train_portrait.py", "portrait", self.config.steps, self.config.components)
        if trained.row.stage1_share is None:
            return None
        first = round(self.config.steps * trained.row.stage1_share)
        adapter: Path | None = None
        for number, steps in ((1, first), (2, self.config.steps - first)):
            if steps:
                adapter = self._run(trained, f"train_stage{number}.py", f"stage{number}", steps, adapter or "null")
        return adapter

    def _run(self, trained: Trained, script: str, stage: str, steps: int, start: Path | str) -> Path:
        """One stage, unless it was run; gives its adapter."""
        output = self.work / trained.folder / stage
        if not (output / "adapter").is_dir():
            settings = [f"output={output}", f"seed={trained.seed}", f"stage.steps={steps}", f"stage.init_from={start}"]
            settings += [f"base={self.config.components}", f"data.manifests=[{self.config.manifest}]"]
            more = (*self.config.train, *trained.row.train)
            self._script(script, "--config", CONFIGS / "nano" / f"{stage}.yaml", *settings, *more)
        return output / "adapter"

    def _score(
        self, name: str, folder: str, adapter: Path | None, infer: Sequence[str], protocol: Path | None = None
    ) -> Path:
        """Generates and measures by this protocol, or by that of the rows; gives results.json."""
        protocol = protocol or self.work / PROTOCOL
        videos, output = self.work / folder / "videos", self.work / folder / "scores"
        asked = ["--manifest", protocol, "--references", self.references, "--output", videos]
        settings = [f"base={self.config.components}", f"sizes=[{self.config.width}x{self.config.size}]"]
        role = "adapter" if self.config.task is Task.speech else "expression_adapter"
        settings += [f"{role}={adapter}"] if adapter else []
        if not (output / RESULTS).is_file():
            self._script("generate_benchmark.py", *asked, *settings, *self.config.infer, *infer)
            given = ["--benchmark", self.config.task.benchmark, "--references", self.references]
            given += ["--predictions", videos]
            given += ["--manifest", protocol, "--weights", self._weights(), "--output", output, "--name", name]
            given += ["--metrics", ",".join(self.config.metrics), "--processes", self.processes]
            self._script("evaluate.py", *given)
        return output / RESULTS

    def _control(self, trained: Trained, adapter: Path | None) -> None:
        """The same model asked for several intensities, and a table of how what is measured follows."""
        control = self.config.control
        assert control is not None
        below, results = self.config.control_folder, []
        for intensity in control.intensities:
            asked = [*trained.row.infer, f"expression_motion={intensity}", f"body_motion={intensity}"]
            name, folder = f"{trained.name}, motion {intensity:g}", f"{below}/{trained.folder}_motion_{intensity:g}"
            results.append(self._score(name, folder, adapter, asked, self.work / below / PROTOCOL))
        lines = control_lines(control.intensities, [Results.load(path) for path in results])
        with written_whole(self.work / below / f"{trained.folder}.md") as temporary:
            temporary.write_text("\n".join([f"# {trained.name}", "", *lines]) + "\n", encoding="utf-8")

    def _weights(self) -> Path:
        """A folder with nano's own networks under the names by which metrics look for them."""
        folder = self.work / "weights"
        (face,) = (Path(self.config.components) / "face_encoder").glob("*.onnx")
        networks = {NANO_FACE.file: face}
        if self.config.reader is not None:
            networks[NANO_READER.file] = Path(self.config.reader)
        for name, network in networks.items():
            if not (folder / name).is_file():
                with written_whole(folder / name) as temporary:
                    shutil.copyfile(network, temporary)
        return folder

    def _script(self, name: str, *arguments: object) -> None:
        run_script([script_path(name), *map(str, arguments)], {})


def claim(folder: Path, trained: Trained, config: AblationConfig) -> None:
    """Notes in a row's folder what the row is made with, weights included, or checks that it was begun with the same.

    Raises:
        InputError: it is not.
    """
    settings = dataclasses.asdict(config) | {"title": "", "rows": [], "control": None, "work": ""}
    settings |= {"row": dataclasses.asdict(trained.row), "seed": trained.seed, "weights": _hashes(config.components)}
    note, text = folder / SETTINGS, json.dumps(settings, indent=1, default=lambda choice: choice.value) + "\n"
    if not note.is_file():
        with written_whole(note) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif note.read_text(encoding="utf-8") != text:
        raise InputError(f"row '{trained.name}' in '{folder}' was begun with other settings; remove it or set work=")


def _hashes(components: str) -> dict[str, str]:
    """Of the networks that make the pictures: trained again, they are another model."""
    files = [path for part in MAKERS for path in sorted((Path(components) / part).glob("*.safetensors"))]
    return {f"{path.parent.name}/{path.name}": hash_file(path) for path in files}
