"""The architecture: rooms in one total order, no circle between files, one meaning for each public name.

Imports under TYPE_CHECKING and inside functions count like any other.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.distribution import TOGETHER, position, unit_of
from tests.helpers.paths import ROOT

PACKAGE = ROOT / "fantasytalking"
ROOMS = [
    *(
        "common",
        "media",
        "latent_geometry",
        "conditions",
        "condition_specs",
        "condition_registry",
        "flow_matching",
        "audio_tokens",
        "audio_windows",
        "attention_regions",
        "motion_normalizer",
        "face_range",
    ),
    *("portrait_world", "models", "checkpoints", "encoders", "perception", "data", "training", "pipeline"),
    *("evaluation", "inference", "benchmarking", "app", "nano", "commands", "cli", "__main__"),
]
"""From the ground up: a room imports from itself and from rooms before it."""
SEPARATE = {
    ("training", "pipeline"): "training takes what makes validation videos as an argument",
    ("models", "encoders"): "the transformer sees tensors only",
    ("pipeline", "training"): "generating a video needs nothing of training",
    ("evaluation", "pipeline"): "metrics judge files, whatever made them",
    ("portrait_world", "models"): "the synthetic corpus is drawn, not learnt",
}
CONVENTIONAL_FILE_NAMES = {"__init__.py", "config.py", "cli.py", "loading.py"}
WITHOUT_PERCEPTION = (
    *("models.transformer", "models.wan_loading", "checkpoints.adapter", "checkpoints.convert", "audio_windows"),
    *("data.dataset", "data.collate", "training.trainer", "training.cli", "commands.train", "cli"),
    *("pipeline", "inference.cli", "inference.generate", "inference.model_sources"),
)
"""Modules that are imported where only the packages that every installation has are installed."""
OPTIONAL = {"mediapipe", "insightface", "decord", "imageio", "cv2", "av", "deepspeed", "wandb", "gradio"}
COMMANDS = "fantasytalking.commands."
"""Its modules are named after their commands, and each defines the same few names."""
SHARED_NAMES = {"main": "the entry point of a process: the command line, and the server that runs eSpeak"}
"""Other public names that several modules define, and why."""


def module_files() -> dict[str, Path]:
    """Files of the package by dotted module name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            found = next((known for known in (name, name.rpartition(".")[0]) if known in modules), None)
            if found is not None:
                yield found


def imports_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module imports while it is imported itself, as it writes them."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef | ast.For):
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                yield from imports_at_once(node.orelse)
                continue
            for part in ("body", "orelse", "handlers", "finalbody"):
                for statement in getattr(node, part, []):
                    handled = statement.body if isinstance(statement, ast.ExceptHandler) else [statement]
                    yield from imports_at_once(handled)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    modules = module_files()
    assert len(modules) > 300
    return {name: set(imports(path, modules)) - {name, "fantasytalking"} for name, path in modules.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_a_place_and_imports_point_down(graph: dict[str, set[str]]) -> None:
    order = {name: place for place, name in enumerate(ROOMS)}
    present = {room(module) for module in graph if module != "fantasytalking"}
    assert present <= set(ROOMS), f"add {present - set(ROOMS)} to ROOMS"
    upward = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if module != "fantasytalking" and order[room(other)] > order[room(module)]
    ]
    assert not upward, "\n".join(upward)


def test_rooms_that_must_not_see_each_other(graph: dict[str, set[str]]) -> None:
    seen = {(room(module), room(other)) for module, others in graph.items() if "." in module for other in others}
    for pair, reason in SEPARATE.items():
        assert pair not in seen, f"{pair[0]} imports {pair[1]}, but {reason}"


def test_training_and_inference_are_imported_without_optional_packages() -> None:
    files = module_files()
    waiting = [f"fantasytalking.{name}" for name in WITHOUT_PERCEPTION]
    assert set(waiting) <= files.keys()
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        names = set(imports_at_once(ast.parse(files[module].read_text()).body))
        found = {name.partition(".")[0] for name in names} & OPTIONAL
        assert not found, f"{module} imports {', '.join(sorted(found))} at once"
        # The parents of a module are imported before it.
        names |= {module.rpartition(".")[0]}
        waiting += [known for name in names for known in (name, name.rpartition(".")[0]) if known in files]
    assert len(seen) > 100


def circular(graph: dict[str, set[str]]) -> set[str]:
    """Nodes that lie on a circle, or on a path between two of them."""
    remaining = {node: others & graph.keys() for node, others in graph.items()}
    while True:
        imported = set().union(*remaining.values()) if remaining else set()
        ends = [node for node, others in remaining.items() if not others or node not in imported]
        if not ends:
            return set(remaining)
        for node in ends:
            del remaining[node]
        remaining = {node: others & remaining.keys() for node, others in remaining.items()}


def test_no_circle_between_files(graph: dict[str, set[str]]) -> None:
    assert not circular(graph)


def test_no_circle_between_folders_of_a_room(graph: dict[str, set[str]]) -> None:
    folders: dict[str, set[str]] = defaultdict(set)
    for module, others in graph.items():
        parts = module.split(".")
        if len(parts) < 4:  # files of the room itself may stand above and below its folders
            continue
        folder = ".".join(parts[:3])
        folders[folder] |= {".".join(other.split(".")[:3]) for other in others if len(other.split(".")) > 3} - {folder}
    assert not circular(folders)


def test_a_circle_is_noticed() -> None:
    assert circular({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}


def public_definitions() -> dict[str, list[str]]:
    """Modules that define each public class, function and constant at their top level, commands left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in module_files().items():
        if module.startswith(COMMANDS):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            else:
                continue
            for name in names:
                if not name.startswith("_") and name != "logger":
                    found[name].append(module)
    return found


def test_one_name_has_one_meaning() -> None:
    doubled = {name: modules for name, modules in public_definitions().items() if len(modules) > 1}
    assert doubled.keys() == SHARED_NAMES.keys(), {
        name: modules for name, modules in doubled.items() if name not in SHARED_NAMES
    }


def test_no_file_name_stands_twice() -> None:
    found: dict[str, list[Path]] = defaultdict(list)
    for module, path in module_files().items():
        if module.startswith(COMMANDS):
            continue
        found[path.name].append(path.relative_to(ROOT))
    doubled = {name: paths for name, paths in found.items() if len(paths) > 1 and name not in CONVENTIONAL_FILE_NAMES}
    assert not doubled


def test_what_runs_together_exists_and_the_rest_are_files_of_their_own() -> None:
    assert [start for start in TOGETHER if not (ROOT / start).exists()] == []
    assert unit_of("tests/app/test_page.py::test_a[b::c]") == "the page's server"
    assert unit_of("tests/media/test_audio.py::test_a[b::c]") == "tests/media/test_audio.py"
    assert position("tests/training/test_kill_and_resume.py::test_a") == 0 < position("tests/test_cli.py::test_a")
