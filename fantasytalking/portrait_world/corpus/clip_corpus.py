"""The portrait world as a corpus: people times sentences, made by many processes, continued where it stopped."""

import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.common.resources import ROOT, resource_path
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, PortraitRenderer, write_clip
from fantasytalking.portrait_world.people.identity import HELD_OUT_IDENTITIES, make_identity
from fantasytalking.portrait_world.render.camera import MAX_ZOOM
from fantasytalking.portrait_world.speech.synthesis import MAX_SENTENCE_CHARACTERS

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 96, 512
MAX_SENTENCES_BYTES, MAX_SENTENCES = 1_000_000, 10_000
SENTENCES_FOLDER = ROOT / "data" / "portrait_world"
TRAINING_SENTENCES_FILE, HELD_OUT_SENTENCES_FILE = (
    SENTENCES_FOLDER / "sentences_train.txt",
    SENTENCES_FOLDER / "sentences_heldout.txt",
)
"""The project's own sentences, one a line."""
CLIPS_PER_TASK = 6


class ClipPlanProtocol(Protocol):
    """A clip that is to be made."""

    @property
    def name(self) -> str: ...

    @property
    def task_group(self) -> int: ...

    def matches_record(self, truth: dict[str, Any]) -> bool: ...


ClipT = TypeVar("ClipT", bound=ClipPlanProtocol)


class CorpusPlanProtocol(Protocol[ClipT]):
    """What to make: clips, their common settings, and how one of them is made in a folder below `output`."""

    def clips(self) -> Iterator[ClipT]: ...

    def settings(self) -> dict[str, object]: ...

    def make_clip(self, clip: ClipT, output: Path) -> None: ...


@dataclass(frozen=True)
class CorpusPlan:
    """What to make: everyone in `identities` says every sentence. None draws an intensity for each clip.

    Raises:
        InputError: a size or an intensity out of bounds, or training and held-out material mixed.
    """

    identities: Sequence[int]
    sentences: Sequence[str]
    size: int = 256
    expression: float | None = None
    body: float | None = None
    seed: int = 0
    closeness: float = 1.0
    """How much larger than in the usual portrait people are seen; 1.2 leaves the face and a little of the shoulders."""

    def __post_init__(self) -> None:
        if not MIN_IMAGE_SIZE <= self.size <= MAX_IMAGE_SIZE or self.size % 2:
            raise InputError(f"size is {self.size}; give an even number from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}")
        check_performance_settings(self.expression, self.body, self.closeness, self.seed)

    def clips(self) -> Iterator[ClipPlan]:
        """One plan per clip, person by person."""
        for identity in self.identities:
            for sentence, text in enumerate(self.sentences):
                yield ClipPlan(identity, sentence, text, self.seed, self.expression, self.body)

    def settings(self) -> dict[str, object]:
        """What all clips in a folder have in common."""
        values = asdict(self)
        return {name: values[name] for name in ("size", "expression", "body", "seed", "closeness")}

    def make_clip(self, clip: ClipPlan, output: Path) -> None:
        """Makes one of the clips."""
        write_clip(_portrait_renderer(clip.identity, self.size, self.closeness), clip, output / clip.name)


def check_performance_settings(expression: float | None, body: float | None, zoom: float, seed: int) -> None:
    """Checks what every corpus has.

    Raises:
        InputError: out of bounds.
    """
    for name, value in (("expression", expression), ("body", body)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{name} is {value}; give a number from 0 to 1, or leave it out to draw one per clip")
    if not 1 <= zoom <= MAX_ZOOM:
        raise InputError(f"closeness is {zoom}; give a number from 1 to {MAX_ZOOM}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; give a whole number from 0 on")


def read_sentences(path: str | Path, identities: range) -> list[str]:
    """The lines of a sentences file without blank ones, checked to be meant for these people.

    The project's held-out sentences are only for held-out people and its training sentences only for the others;
    sentences of one's own are for anyone.

    Raises:
        InputError: missing, not UTF-8, too large, empty, a line too long, or one kept for the other people.
    """
    sentences = _read_lines(existing_file(resource_path(path), "sentences file"))
    held_out = identities[0] in HELD_OUT_IDENTITIES
    others = TRAINING_SENTENCES_FILE if held_out else HELD_OUT_SENTENCES_FILE
    kept = {_normalize_words(sentence) for sentence in _read_lines(others)} if others.is_file() else set()
    for sentence in sentences:
        if _normalize_words(sentence) in kept:
            raise InputError(
                f"'{sentence[:60]}' is one of {others.name}, which identities {identities[0]}-{identities[-1]} "
                f"({'held out' if held_out else 'training'}) must not say; take the other file or sentences of your own"
            )
    return sentences


def _normalize_words(sentence: str) -> str:
    """What is said, whatever the case and the points."""
    return " ".join("".join(c if c.isalnum() else " " for c in sentence.casefold()).split())


def _read_lines(path: Path) -> list[str]:
    if path.stat().st_size > MAX_SENTENCES_BYTES:
        raise InputError(f"sentences file '{path}' has over {MAX_SENTENCES_BYTES} bytes; split it")
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"sentences file '{path}' is not UTF-8 text; give one sentence a line") from error
    sentences = [line for line in lines if line]
    if not 0 < len(sentences) <= MAX_SENTENCES:
        raise InputError(f"sentences file '{path}' has {len(sentences)} sentences; give 1 to {MAX_SENTENCES}")
    for sentence in sentences:
        if len(sentence) > MAX_SENTENCE_CHARACTERS or not sentence.isprintable() or not any(map(str.isalnum, sentence)):
            raise InputError(
                f"'{sentence[:40]}' cannot be spoken; give lines of words, up to {MAX_SENTENCE_CHARACTERS} letters"
            )
    return sentences


def make_corpus(plan: CorpusPlanProtocol[ClipT], output: str | Path, processes: int = 1) -> Iterator[tuple[int, int]]:
    """Makes every clip that `output` does not hold yet, a folder each; yields clips done so far and clips in all.

    The files do not depend on the number of processes, nor on how often the work was interrupted.

    Raises:
        InputError: `output` cannot be written, or holds clips made with other settings.
    """
    if processes < 1:
        raise InputError(f"processes is {processes}; give 1 or more")
    output = Path(output)
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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, max(1, len(tasks))), mp_context=context) as pool:
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
        same = clip.matches_record(json.loads(truth.read_text("utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{truth}' is damaged; remove its folder, and it is made again") from error
    if not same:
        raise InputError(
            f"'{output / clip.name}' says other words than the sentences file has there, or by other people; "
            "choose another output folder"
        )
    return True


def _check_corpus_settings(plan: CorpusPlanProtocol[ClipT], output: Path) -> None:
    """Notes the settings beside the clips, or checks that they are those of the clips that are there."""
    note = output / "corpus.json"
    if note.is_file():
        try:
            previous = json.loads(note.read_text("utf-8"))
        except ValueError as error:
            raise InputError(f"'{note}' is damaged; choose another output folder") from error
        if previous != plan.settings():
            raise InputError(
                f"'{output}' holds clips made with {previous}; choose another output folder or those settings"
            )
    else:
        with atomic_write(note) as temporary:
            temporary.write_text(json.dumps(plan.settings()) + "\n", "utf-8")
    # What an earlier run was writing when it was killed.
    for kind in ("id", "g"):
        for unfinished in output.glob(f".{kind}????_s????.*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _batch_clips(clips: list[ClipT]) -> Iterator[tuple[ClipT, ...]]:
    """Some clips of one person, or group, at a time."""
    task: list[ClipT] = []
    for clip in clips:
        if task and (len(task) == CLIPS_PER_TASK or task[0].task_group != clip.task_group):
            yield tuple(task)
            task = []
        task.append(clip)
    if task:
        yield tuple(task)


@lru_cache(maxsize=2)
def _portrait_renderer(identity: int, size: int, zoom: float) -> PortraitRenderer:
    return PortraitRenderer(make_identity(identity), size, zoom)


def _make_clips(plan: CorpusPlanProtocol[ClipT], clips: tuple[ClipT, ...], output: Path) -> int:
    import cv2

    # One thread a process: the processes share the cores.
    cv2.setNumThreads(1)
    for clip in clips:
        plan.make_clip(clip, output)
    return len(clips)
