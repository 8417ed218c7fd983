"""Checks portrait, speech and driving videos when they are given, and warns of what a model was not trained for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fantasytalking import media
from fantasytalking.app.estimate import duration_text
from fantasytalking.app.examples import Examples
from fantasytalking.app.given_files import SoundCheck, check_sound, page_words, prepare_people, video_seconds
from fantasytalking.app.request import Mode, PageRequest
from fantasytalking.app.service import GenerationService
from fantasytalking.app.uploads import open_regular
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.config import InferConfig
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.pipeline.portrait import Portrait

SOUND_NAMES = {"audio": "Speech", "second_audio": "Speech of the right person"}
DRIVER_NAMES = {"driving_video": "Driving video", "second_driving_video": "Driving video of the right person"}


@dataclass(frozen=True)
class Finding:
    """What was found out about an input."""

    text: str = ""
    is_error: bool = False
    is_unreadable: bool = False
    """Whether the file cannot be shown either."""


class InputChecks:
    """The checks of one service.

    Args:
        service: knows the model and its limits.
        examples: portraits that the model is at home with.
    """

    def __init__(self, service: GenerationService, examples: Examples) -> None:
        self.service, self.examples = service, examples
        self.training_note = service.config.notice.partition(";")[0].rstrip(".")
        """What the model was trained on, where it was not trained on photographs; the rest is for the command line."""

    def portrait(self, path: str | None, mode: Mode) -> Finding:
        """Checks that a portrait can be read and shows as many faces as the tab needs."""
        if path is None:
            return Finding()
        try:
            return Finding(self._checked_portrait(Path(path), 2 if mode is Mode.two_people else 1))
        except InputError as error:
            return _found(error, Path(path))

    def sound(self, path: str | None) -> Finding:
        """Checks that a sound can be decoded."""
        if path is None:
            return Finding()
        try:
            checked = self._checked_sound(Path(path))
        except InputError as error:
            return _found(error, Path(path))
        is_cut = checked.seconds >= self.service.max_seconds
        limit = [f"only the first {self.service.max_seconds:g} s are used"] if is_cut else []
        return Finding(_joined([*checked.notes, *limit]))

    def driver(self, path: str | None) -> Finding:
        """Checks that a driving video has pictures that can be decoded."""
        if path is None:
            return Finding()
        try:
            self._checked_driver(Path(path))
        except InputError as error:
            return _found(error, Path(path))
        return Finding()

    def check_all(self, request: PageRequest) -> None:
        """Checks all inputs of a request.

        Raises:
            InputError: one cannot be used; `field` is the field of the request.
        """
        files = request.files()
        num_people = max(len(files.audio_paths), len(files.driving_videos), 1)
        checks = {
            "portrait": lambda path: self._checked_portrait(path, num_people, request.face_index, request.size),
            **dict.fromkeys(SOUND_NAMES, self._checked_sound),
            **dict.fromkeys(DRIVER_NAMES, self._checked_driver),
        }
        for field, check in checks.items():
            path = getattr(request, field)
            if path is None:
                continue
            try:
                check(Path(path))
            except InputError as error:
                raise InputError(_worded(error, Path(path)), code=error.code, field=field, value=error.value) from error

    def estimate(self, request: PageRequest, mode: Mode) -> str:
        """Returns a line about the time that a request takes, or an empty one where that is not known."""
        try:
            request = request.of_mode(mode)
            config = request.to_config(self.service.config, self.service.max_seconds)
            seconds = self.service.estimated_seconds(config, request.files())
        except InputError:
            return ""  # reported beside the input itself, or there is no input yet
        return "" if seconds is None else f"Takes about {duration_text(seconds)}"

    def result_note(self, request: PageRequest, warnings: Sequence[str]) -> str:
        """Returns what to know about a result, which came with `warnings`; empty: nothing."""
        assert request.portrait is not None, "checked before the generation"
        return _joined([self._warning(Path(request.portrait)), *map(page_words, warnings)])

    def _warning(self, portrait: Path) -> str:
        if not self.training_note or self.examples.contain(portrait):
            return ""
        return f"{self.training_note}: expect a blurred or melted face for any other; the examples work"

    def _framing(self, portrait: Portrait, config: InferConfig) -> str:
        return page_words(portrait.framing_warning(self.service.face_ranges, config.resize_mode) or "")

    def _checked_portrait(
        self, path: Path, num_people: int, face_index: float | None = None, size: str | None = None
    ) -> str:
        """Returns a warning, or an empty text."""
        with open_regular(path):
            pass
        if face_index:
            return self._warning(path)  # a chosen face is checked with the whole configuration
        if size is not None and size in self.service.config.sizes:
            config = replace(self.service.config, sizes=[size])
            portrait = config.portrait_options(self.service.face_ranges).prepare(path, num_people)
            return _joined([self._warning(path), self._framing(portrait, config)])
        try:
            config, portrait = prepare_people(self.service.config, path, num_people, self.service.face_ranges)
        except InputError as error:
            if error.code is ErrorCode.no_face and isinstance(error.value, int) and error.value:
                raise _face_count(error.value, num_people) from error
            raise
        notes = [self._warning(path), self._framing(portrait, config)]
        if config.resize_mode is ResizeMode.letterbox and self.service.config.resize_mode is not config.resize_mode:
            notes.append("black bars are added so that both faces fit")
        return _joined(notes)

    def _checked_sound(self, path: Path) -> SoundCheck:
        with open_regular(path):
            pass
        return check_sound(path, self.service.max_seconds)

    def _checked_driver(self, path: Path) -> None:
        with open_regular(path):
            pass
        if not media.probe(path).has_video:
            raise InputError(
                f"'{path.name}' has no video track; upload a video", code=ErrorCode.unreadable_media, value=path.name
            )
        video_seconds(path, self.service.max_seconds)


def _joined(notes: Sequence[str]) -> str:
    return "\n".join(filter(None, notes))


def _found(error: InputError, path: Path) -> Finding:
    return Finding(_worded(error, path), True, error.code in (ErrorCode.unreadable_media, ErrorCode.malformed_file))


def _face_count(num_found: int, num_people: int) -> InputError:
    found = "1 face was" if num_found == 1 else f"{num_found} faces were"
    needed = "two people" if num_people == 2 else "one person"
    cure = f"choose a portrait of {needed}"
    if num_found > num_people == 1:
        cure += ", or one of them as Face in Advanced settings"
    return InputError(f"{found} found in the portrait; {cure}", code=ErrorCode.no_face, value=num_found)


def _worded(error: InputError, path: Path) -> str:
    """Returns the message of an error, in which the file has its own name: its folder means nothing to a visitor."""
    return page_words(str(error).replace(str(path), path.name))
