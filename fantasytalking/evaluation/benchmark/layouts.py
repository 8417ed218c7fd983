"""Where portraits, drivers and true reenactments lie in a folder of references, and who is seen in them.

Layout `exprbench`: portraits/NAME.png, or .jpg and so on, of one person, portraits/2/NAME.png of two; drivers/NAME.mp4
of one face each, drivers/2/NAME.mp4 of two (for self-reenactment of two). NAME is WHO or WHO_ANYTHING, several people
joined by +, as in anna+ben_3.

Layout `exprbench_world`: clips of the portrait world below any folder, and true reenactments, which
scripts/make_crossed.py makes, in crossed/PORTRAIT-by-DRIVER-DRIVER.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from fantasytalking.common.errors import InputError
from fantasytalking.data.prepare.plan import SUFFIXES
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, Layout
from fantasytalking.evaluation.benchmark.driver_assignment import Entry
from fantasytalking.evaluation.ground_truth import MAX_BYTES, TRUTH

PORTRAITS, DRIVERS, CROSSED = "portraits", "drivers", "crossed"
PICTURES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
VIDEO, PORTRAIT = "video.mp4", "portrait.png"
BY = "-by-"
_WORLD = re.compile(r"(?:id|g)\d{4,6}_s\d{4,5}", re.ASCII)


def list_selves(references: Path, config: BenchmarkConfig) -> list[Entry]:
    """Videos of `people` people who drive themselves."""
    if config.layout is Layout.exprbench_world:
        return list_world(references, config.people)
    return _listed(_several(references / DRIVERS, config.people), SUFFIXES)


def list_portraits(references: Path, config: BenchmarkConfig) -> list[Entry]:
    """Pictures of `people` people."""
    return _listed(_several(references / PORTRAITS, config.people), PICTURES)


def list_drivers(references: Path) -> list[Entry]:
    """Videos of one person each."""
    return _listed(references / DRIVERS, SUFFIXES)


def list_world(references: Path, people: int) -> list[Entry]:
    """Clips of the portrait world that show so many people."""
    found = [path for path in sorted(references.rglob(VIDEO)) if _WORLD.fullmatch(path.parent.name)]
    entries = [Entry(path.parent.name, seen_in(path.with_name(TRUTH)), path) for path in found]
    return [entry for entry in entries if len(entry.people) == people]


def crossed_videos(references: Path, people: int) -> Iterator[tuple[Entry, Path, tuple[Path, ...]]]:
    """True reenactments with their portraits and drivers, in the order of the md5 of their names.

    Raises:
        InputError: a driver is not below the references, or several are of one name.
    """
    clips: dict[str, list[Path]] = {}
    for entry in list_world(references, 1):
        clips.setdefault(entry.name, []).append(entry.path)
    crossed = [path for path in references.rglob(VIDEO) if BY in path.parent.name]
    entries = [Entry(path.parent.name, seen_in(path.with_name(TRUTH)), path) for path in crossed]
    for entry in sorted(entries, key=lambda entry: entry.order):
        names = entry.name.split(BY, 1)[1].split("-")
        if len(entry.people) != people or len(names) != people:
            continue
        for name in names:
            if len(clips.get(name, ())) != 1:
                raise InputError(f"'{entry.name}' needs one clip '{name}' below '{references}'")
        yield entry, entry.path.with_name(PORTRAIT), tuple(clips[name][0] for name in names)


def seen_in(truth: Path) -> tuple[str, ...]:
    """Who is in a clip of the portrait world, from left to right.

    Raises:
        InputError: its truth.json is missing, too large or damaged.
    """
    if not truth.is_file() or truth.stat().st_size > MAX_BYTES:
        raise InputError(f"'{truth}' is missing or has over {MAX_BYTES} bytes; make the clip again")
    try:
        known = json.loads(truth.read_text(encoding="utf-8"))
        return tuple(f"id{int(person['identity']):04d}" for person in known.get("people", [known]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"'{truth}' is damaged ({error!r}); make the clip again") from error


def _several(folder: Path, people: int) -> Path:
    return folder if people == 1 else folder / str(people)


def _listed(folder: Path, suffixes: frozenset[str]) -> list[Entry]:
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder; this benchmark has its files there")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and path.is_file()]
    return [Entry(path.stem, tuple(path.stem.split("_")[0].split("+")), path) for path in paths]
