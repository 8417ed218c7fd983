"""The house: imports point down only."""

import ast
from pathlib import Path

from tests.helpers.paths import ROOT

PACKAGE = ROOT / "fantasytalking"
LAYERS = [
    {"errors", "files", "hub"},
    {"config", "conditions", "media"},
    {"flow_matching", "audio_windows", "regions", "tensor_files", "motion_normaliser"},
    {"models"},
    {
        "data",
        "encoders",
        "perception",
        "lora",
        "checkpoint",
        "audio_checkpoint",
        "expression_checkpoint",
        "expression_adapter",
    },
    {"convert", "expression_reference", "training", "pipeline", "evaluation", "portrait_world"},
    {"nano", "benchmarking", "validation"},
    {"train_command", "app"},
]
"""From the ground up; a room imports from its own layer's lower neighbours and from layers below."""
NEVER = {("training", "pipeline"), ("models", "encoders"), ("models", "data"), ("evaluation", "pipeline")}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names = (
                [node.module] if node.module != "fantasytalking" else [f"{node.module}.{a.name}" for a in node.names]
            )
        rooms |= {name.split(".")[1] for name in names if name.startswith("fantasytalking.")}
    return rooms


def layer(room: str) -> int:
    found = [index for index, rooms in enumerate(LAYERS) if room in rooms]
    assert found, f"room {room} has no layer: add it to LAYERS"
    return found[0]


def test_imports_point_down():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 15
    for path in files:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported_rooms(path) - {room}:
            assert layer(other) <= layer(room), f"{path.relative_to(PACKAGE)} imports {other}, which lies above it"
            assert (room, other) not in NEVER, f"{room} must not see {other}"
