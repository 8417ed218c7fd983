"""Renders a corpus of the portrait world (identities x sentences) in several processes; interrupted runs resume."""

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write_text
from fantasytalking.common.limits import MAX_SENTENCES, MAX_SENTENCES_BYTES
from fantasytalking.common.locks import lock_output
from fantasytalking.common.resources import ROOT, resource_path
from fantasytalking.common.text_files import read_json, read_text_file
from fantasytalking.common.worker_processes import worker_pool
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, PortraitRenderer, write_clip
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, make_identity
from fantasytalking.portrait_world.render.camera import MAX_ZOOM
from fantasytalking.portrait_world.speech.synthesis import MAX_SENTENCE_CHARACTERS

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 96, 512
SENTENCES_FOLDER = ROOT / "data" / "portrait_world"
TRAINING_SENTENCES_FILE, HELD_OUT_SENTENCES_FILE = (
    SENTENCES_FOLDER / "sentences_train.txt",
    SENTENCES_FOLDER / "sentences_heldout.txt",
)
"""Text files with the project's sentences, one per line."""
CLIPS_PER_TASK = 6


class ClipPlanProtocol(Protocol):
    """Plan of one clip."""

    @property
    def name(self) -> str: ...

    @property
    def task_group(self) -> int: ...

    def matches_record(self, truth: dict[str, Any]) -> bool: ...


ClipT = TypeVar("ClipT", bound=ClipPlanProtocol)


class CorpusPlanProtocol(Protocol[ClipT]):
    """Plan of a corpus: its clips, their common settings, and how one clip is written to a folder below `output`."""

    def clips(self) -> Iterator[ClipT]: ...

    def settings(self) -> dict[str, object]: ...

    def make_clip(self, clip: ClipT, output: Path) -> None: ...


@dataclass(frozen=True)
class CorpusPlan:
    """Plan of a corpus in which everyone in `identities` says every sentence.

    Raises:
        InputError: a size, an intensity, the zoom or the seed is out of range.
    """

    identities: Sequence[int]
    sentences: Sequence[str]
    size: int = 256
    """Side of the videos in pixels, an even number."""
    expression: float | None = None
    """Intensity of facial motion in [0, 1]. None: drawn for each clip."""
    body: float | None = None
    """Intensity of head and shoulder motion in [0, 1]. None: drawn for each clip."""
    seed: int = 0
    zoom: float = 1.0
    """Magnification relative to the default portrait; 1.2 shows the face and a little of the shoulders. Stored under
    the key `closeness`."""

    def __post_init__(self) -> None:
        if not MIN_IMAGE_SIZE <= self.size <= MAX_IMAGE_SIZE or self.size % 2:
            raise InputError(
                f"size is {self.size}; it must be an even number from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}",
                code=ErrorCode.out_of_range,
                field="size",
                value=self.size,
            )
        check_performance_settings(self.expression, self.body, self.zoom, self.seed)

    def clips(self) -> Iterator[ClipPlan]:
        """Yields one plan per clip, person by person."""
        for identity in self.identities:
            for sentence, text in enumerate(self.sentences):
                yield ClipPlan(identity, sentence, text, self.seed, self.expression, self.body)

    def settings(self) -> dict[str, object]:
        """Returns the settings that all clips of a folder share, under the keys of corpus.json."""
        return {
            "size": self.size,
            "expression": self.expression,
            "body": self.body,
            "seed": self.seed,
            "closeness": self.zoom,
        }

    def make_clip(self, clip: ClipPlan, output: Path) -> None:
        """Writes one clip to its folder below `output`."""
        zoom, offset = self.zoom, (0.0, 0.0)
        if clip.placement is not None:
            zoom, offset = clip.placement.zoom, (clip.placement.x, clip.placement.y)
        write_clip(_portrait_renderer(clip.identity, self.size, zoom, offset), clip, output / clip.name)


def check_performance_settings(expression: float | None, body: float | None, zoom: float, seed: int) -> None:
    """Validates the settings that every corpus has.

    Raises:
        InputError: a value is out of range.
    """
    for name, value in (("expression", expression), ("body", body)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(
                f"{name} is {value}; it must be from 0 to 1, or left out to draw one per clip",
                code=ErrorCode.out_of_range,
                field=name,
                value=value,
            )
    if not 1 <= zoom <= MAX_ZOOM:
        raise InputError(
            f"zoom is {zoom}; it must be from 1 to {MAX_ZOOM}", code=ErrorCode.out_of_range, field="zoom", value=zoom
        )
    if not 0 <= seed < 2**63:
        raise InputError(
            f"seed is {seed}; it must be from 0 to 2**63 - 1", code=ErrorCode.out_of_range, field="seed", value=seed
        )


def read_sentences(path: str | Path, identities: range) -> list[str]:
    """Returns the lines of a sentences file that are not blank, checked against the split of `identities`.

    The project's held-out sentences are for held-out people only, and its training sentences for training people only.
    Any other sentence may be said by anyone.

    Raises:
        InputError: the file is missing, not UTF-8, too large or empty, a line is too long or cannot be spoken, or a
            sentence belongs to the other split.
    """
    sentences = _read_lines(resource_path(path))
    held_out = identities[0] in HELD_OUT_IDENTITIES
    others = TRAINING_SENTENCES_FILE if held_out else HELD_OUT_SENTENCES_FILE
    kept = {_normalize_words(sentence) for sentence in _read_lines(others)} if others.is_file() else set()
    for sentence in sentences:
        if _normalize_words(sentence) in kept:
            raise InputError(
                f"'{sentence[:60]}' is one of {others.name}, which identities {identities[0]}-{identities[-1]} "
                f"({'held out' if held_out else 'training'}) must not say; use the other file or sentences of your own",
                code=ErrorCode.conflict,
                field="sentences",
                value=sentence,
            )
    return sentences


def _normalize_words(sentence: str) -> str:
    """Returns the words of a sentence, lower-cased and without punctuation."""
    return " ".join("".join(c if c.isalnum() else " " for c in sentence.casefold()).split())


def _read_lines(path: Path) -> list[str]:
    lines = read_text_file(path, "sentences file", MAX_SENTENCES_BYTES).splitlines()
    sentences = [line.strip() for line in lines if line.strip()]
    if not 0 < len(sentences) <= MAX_SENTENCES:
        raise InputError(
            f"sentences file '{path}' has {len(sentences)} sentences; it must have 1 to {MAX_SENTENCES}",
            code=ErrorCode.out_of_range,
            field="sentences",
            value=len(sentences),
        )
    for sentence in sentences:
        if len(sentence) > MAX_SENTENCE_CHARACTERS or not sentence.isprintable() or not any(map(str.isalnum, sentence)):
            raise InputError(
                f"'{sentence[:40]}' cannot be spoken; write words, at most {MAX_SENTENCE_CHARACTERS} characters a line",
                code=ErrorCode.malformed_file,
                field="sentences",
                value=sentence,
            )
    return sentences


def make_corpus(plan: CorpusPlanProtocol[ClipT], output: str | Path, processes: int = 1) -> Iterator[tuple[int, int]]:
    """Renders all clips of a plan that `output` does not contain yet, each to a folder of its own.

    The files depend neither on the number of processes nor on interruptions.

    Yields:
        the number of finished clips and the number of all clips.

    Raises:
        InputError: `processes` is below 1, `output` cannot be written, it contains clips of other settings, or another
            run works on it.
    """
    if processes < 1:
        raise InputError(
            f"processes is {processes}; it must be at least 1",
            code=ErrorCode.out_of_range,
            field="processes",
            value=processes,
        )
    output = Path(output)
    with lock_output(output):
        yield from _make_missing_clips(plan, output, processes)


def _make_missing_clips(plan: CorpusPlanProtocol[ClipT], output: Path, processes: int) -> Iterator[tuple[int, int]]:
    _check_corpus_settings(plan, output)
    clips = list(plan.clips())
    missing = [clip for clip in clips if not _is_complete(clip, output)]
    done = len(clips) - len(missing)
    yield done, len(clips)
    tasks = list(_batch_clips(missing))
    if processes == 1:
        for task in tasks:
            for clip in task:
                _make_clips(plan, (clip,), output)
                done += 1
                yield done, len(clips)
        return
    with worker_pool(min(processes, max(1, len(tasks))), __name__) as pool:
        running = [pool.submit(_make_clips, plan, task, output) for task in tasks]
        try:
            for finished in as_completed(running):
                done += finished.result()
                yield done, len(clips)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _is_complete(clip: ClipPlanProtocol, output: Path) -> bool:
    truth = output / clip.name / "truth.json"
    if not truth.is_file():
        return False
    try:
        same = clip.matches_record(read_json(truth))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{truth}' is damaged; remove its folder to render the clip again",
            code=ErrorCode.malformed_file,
            field="output",
            value=str(truth),
        ) from error
    if not same:
        raise InputError(
            f"'{output / clip.name}' has another sentence or other people than planned; choose another output folder",
            code=ErrorCode.output_exists,
            field="output",
            value=str(output / clip.name),
        )
    return True


def _check_corpus_settings(plan: CorpusPlanProtocol[ClipT], output: Path) -> None:
    """Writes the settings next to the clips, or checks them against those of the existing clips."""
    note = output / "corpus.json"
    if note.is_file():
        try:
            previous = read_json(note)
        except InputError as error:
            raise InputError(
                f"'{note}' is not valid JSON; choose another output folder",
                code=ErrorCode.malformed_file,
                field="output",
                value=str(note),
            ) from error
        if previous != plan.settings():
            raise InputError(
                f"'{output}' contains clips made with {previous}; choose another output folder or these settings",
                code=ErrorCode.output_exists,
                field="output",
                value=str(output),
            )
    else:
        atomic_write_text(note, json.dumps(plan.settings()) + "\n")
    # Partial folders of an earlier run that was killed.
    for kind in ("id", "g"):
        for unfinished in output.glob(f".{kind}????*_s????.*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _batch_clips(clips: list[ClipT]) -> Iterator[tuple[ClipT, ...]]:
    """Yields batches of at most `CLIPS_PER_TASK` clips of one person or group."""
    task: list[ClipT] = []
    for clip in clips:
        if task and (len(task) == CLIPS_PER_TASK or task[0].task_group != clip.task_group):
            yield tuple(task)
            task = []
        task.append(clip)
    if task:
        yield tuple(task)


@lru_cache(maxsize=2)
def _portrait_renderer(identity: int, size: int, zoom: float, offset: tuple[float, float]) -> PortraitRenderer:
    return PortraitRenderer(make_identity(identity), size, zoom, offset)


def _make_clips(plan: CorpusPlanProtocol[ClipT], clips: tuple[ClipT, ...], output: Path) -> int:
    import cv2

    # One thread per process, since the processes share the cores.
    cv2.setNumThreads(1)
    for clip in clips:
        plan.make_clip(clip, output)
    return len(clips)
