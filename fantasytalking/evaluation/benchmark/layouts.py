"""Folders of reenactment benchmarks: portraits, driving videos and true reenactments, and the people in them.

Layout `exprbench`: portraits/NAME.png (or .jpg and so on) of one person, portraits/2/NAME.png of two; drivers/NAME.mp4
of one face each, drivers/2/NAME.mp4 of two (for self-reenactment of two). NAME is WHO or WHO_ANYTHING, with several
people joined by +, as in anna+ben_3.

Layout `exprbench_world`: clips of the portrait world below any folder, and true reenactments in
crossed/PORTRAIT-by-DRIVER-DRIVER, which scripts/make_crossed.py renders.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_TRUTH_BYTES
from fantasytalking.common.text_files import read_json
from fantasytalking.data.prepare.plan import VIDEO_SUFFIXES
from fantasytalking.evaluation.benchmark.config import BenchmarkConfig, DatasetLayout
from fantasytalking.evaluation.benchmark.driver_assignment import ReferenceEntry
from fantasytalking.evaluation.ground_truth import TRUTH_FILE

PORTRAITS_FOLDER, DRIVERS_FOLDER, CROSS_REENACTMENTS_FOLDER = "portraits", "drivers", "crossed"
IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
WORLD_VIDEO_FILE, WORLD_PORTRAIT_FILE = "video.mp4", "portrait.png"
DRIVER_SEPARATOR = "-by-"
_WORLD_CLIP_PATTERN = re.compile(r"(?:id|g)\d{4,6}_s\d{4,5}", re.ASCII)


def list_self_reenactments(references: Path, config: BenchmarkConfig) -> list[ReferenceEntry]:
    """Returns the videos of `config.people` people who drive themselves."""
    if config.layout is DatasetLayout.exprbench_world:
        return list_world_clips(references, config.people)
    return _list_entries(_people_folder(references / DRIVERS_FOLDER, config.people), VIDEO_SUFFIXES)


def list_portraits(references: Path, config: BenchmarkConfig) -> list[ReferenceEntry]:
    """Returns the portraits of `config.people` people."""
    return _list_entries(_people_folder(references / PORTRAITS_FOLDER, config.people), IMAGE_SUFFIXES)


def list_drivers(references: Path) -> list[ReferenceEntry]:
    """Returns the driving videos of one person each."""
    return _list_entries(references / DRIVERS_FOLDER, VIDEO_SUFFIXES)


def list_world_clips(references: Path, num_people: int) -> list[ReferenceEntry]:
    """Returns the clips of the portrait world that show `num_people` people."""
    found = [
        path for path in sorted(references.rglob(WORLD_VIDEO_FILE)) if _WORLD_CLIP_PATTERN.fullmatch(path.parent.name)
    ]
    entries = [ReferenceEntry(path.parent.name, identities_in(path.with_name(TRUTH_FILE)), path) for path in found]
    return [entry for entry in entries if len(entry.identities) == num_people]


def list_cross_reenactments(
    references: Path, num_people: int
) -> Iterator[tuple[ReferenceEntry, Path, tuple[Path, ...]]]:
    """Yields the true reenactments with their portraits and drivers, in the order of the md5 of their names.

    Raises:
        InputError: a driver is not below the references, or several have its name.
    """
    clips: dict[str, list[Path]] = {}
    for entry in list_world_clips(references, 1):
        clips.setdefault(entry.name, []).append(entry.path)
    crossed = [path for path in references.rglob(WORLD_VIDEO_FILE) if DRIVER_SEPARATOR in path.parent.name]
    entries = [ReferenceEntry(path.parent.name, identities_in(path.with_name(TRUTH_FILE)), path) for path in crossed]
    for entry in sorted(entries, key=lambda entry: entry.sort_key):
        names = entry.name.split(DRIVER_SEPARATOR, 1)[1].split("-")
        if len(entry.identities) != num_people or len(names) != num_people:
            continue
        for name in names:
            if len(clips.get(name, ())) != 1:
                raise InputError(
                    f"'{entry.name}' needs one clip '{name}' below '{references}', which has "
                    f"{len(clips.get(name, ()))}; add the clip or remove the copies",
                    code=ErrorCode.missing_file,
                    field="--references",
                    value=name,
                )
        yield entry, entry.path.with_name(WORLD_PORTRAIT_FILE), tuple(clips[name][0] for name in names)


def identities_in(truth: Path) -> tuple[str, ...]:
    """Returns the people in a clip of the portrait world, from left to right.

    Raises:
        InputError: truth.json of the clip is missing, too large or damaged.
    """
    known = read_json(truth, TRUTH_FILE, MAX_TRUTH_BYTES)
    try:
        return tuple(f"id{int(person['identity']):04d}" for person in known.get("people", [known]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"'{truth}' is damaged ({error!r}); render the clip again",
            code=ErrorCode.malformed_file,
            field=TRUTH_FILE,
            value=str(truth),
        ) from error


def _people_folder(folder: Path, num_people: int) -> Path:
    return folder if num_people == 1 else folder / str(num_people)


def _list_entries(folder: Path, suffixes: frozenset[str]) -> list[ReferenceEntry]:
    if not folder.is_dir():
        raise InputError(
            f"'{folder}' is not a folder; this benchmark needs its files there",
            code=ErrorCode.missing_file,
            field="--references",
            value=str(folder),
        )
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes and path.is_file()]
    return [ReferenceEntry(path.stem, tuple(path.stem.split("_")[0].split("+")), path) for path in paths]
