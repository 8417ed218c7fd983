"""What happens when the button is pressed: checks, queue, progress, the video, and errors beside their controls."""

import asyncio
import html
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Any, NamedTuple

import gradio as gr

from fantasytalking.app.audience import UNHEARD_SECONDS, Audience, JobQueue, Ticket
from fantasytalking.app.checks import InputChecks
from fantasytalking.app.estimate import duration_text
from fantasytalking.app.given_files import page_words
from fantasytalking.app.plot import mouth_curve_figure
from fantasytalking.app.progress_stream import ProgressSnapshot, stream_progress
from fantasytalking.app.request import Mode, PageRequest
from fantasytalking.app.service import GenerationResult, GenerationService, ServerStoppedError
from fantasytalking.common.errors import ErrorCode, InputError

PHASE_START_FRACTION = {"read": 0.0, "denoise": 0.02, "decode": 0.8, "measure": 0.95}
"""Completed fraction of a generation at the start of each phase."""
PHASE_WORDS = {
    "read": "Reading portrait and speech",
    "denoise": "Generating",
    "decode": "Writing the video",
    "measure": "Measuring the mouth",
}
WAITING_SECONDS = 0.25
"""Seconds between two looks at the queue while a job waits in it."""
MESSAGE_SLOTS = ("portrait", "audio", "driving_video", "second_audio", "second_driving_video", "settings", "make")
"""Places of messages: beside each input, beside the advanced settings, and beside the button."""
SETTINGS_FIELDS = frozenset(field.name for field in fields(PageRequest)) | {"sizes", "guidance"}
SLOT_OF_FIELD = {
    **{name: name for name in MESSAGE_SLOTS},
    "image": "portrait",
    "--image": "portrait",
    "sizes": "portrait",
    "face_index": "portrait",
    "--audio": "audio",
    "--driving-video": "driving_video",
}
"""Where the message about a field of an error stands; other controls are among the settings."""


class TalkUpdates(NamedTuple):
    """The components that a generation changes, or what they change to."""

    video: Any
    line: Any
    plot: Any
    record: Any
    picture: Any
    progress: Any
    name: Any
    portrait: Any
    audio: Any
    driving_video: Any
    second_audio: Any
    second_driving_video: Any
    settings: Any
    make: Any


NO_CHANGE = TalkUpdates(*[gr.skip() for _ in TalkUpdates._fields])


def slot_of_field(field: str | None) -> str:
    """Returns the place of the message about a field."""
    if field in SLOT_OF_FIELD:
        return SLOT_OF_FIELD[field]
    return "settings" if field in SETTINGS_FIELDS else "make"


def message_html(text: str, kind: str = "error") -> str:
    """Returns the HTML of a message; `text` may come from a visitor."""
    return f'<div class="{kind}" role="alert">{html.escape(text)}</div>' if text else ""


def progress_html(text: str, fraction: float | None = None) -> str:
    """Returns the HTML of a line about progress, with a bar where the fraction is known."""
    bar = "" if fraction is None else f'<progress max="1" value="{fraction:.3f}" aria-label="Progress"></progress>'
    return f'<div class="progress" role="status">{bar}<span>{html.escape(text)}</span></div>'


def create_talk(
    service: GenerationService, audience: Audience, checks: InputChecks
) -> Callable[..., AsyncIterator[TalkUpdates]]:
    """Returns the handler of the button. Its inputs are the fields of `PageRequest` and the tab."""
    queue = JobQueue()

    async def talk(*values: Any) -> AsyncIterator[TalkUpdates]:
        *controls, mode, client = values
        try:
            request = PageRequest(*controls)
            request = request if mode is None else request.of_mode(Mode(mode))
            with queue.entered(client.client.host) as ticket:
                while ahead := queue.ahead(ticket):
                    _check_heard(ticket, audience, client)
                    yield NO_CHANGE._replace(progress=progress_html(f"Waiting: {ahead} before this one", 0.0))
                    await asyncio.sleep(WAITING_SECONDS)
                await asyncio.to_thread(checks.check_all, request)
                report = await asyncio.to_thread(ProgressReport, service, request)
                async with aclosing(
                    stream_progress(lambda tell, show: service.generate(request, tell, show))
                ) as snapshots:
                    async for snapshot in snapshots:
                        if isinstance(snapshot, GenerationResult):
                            yield _finished(snapshot, checks.result_note(request, snapshot.warnings))
                            continue
                        _check_heard(ticket, audience, client)
                        if (updates := report.updates(snapshot)) is not None:
                            yield updates
        except InputError as error:
            message = page_words(str(error))
            slots = {slot_of_field(error.field): gr.update(value=message_html(message), visible=True)}
            yield NO_CHANGE._replace(progress="", picture=_hidden_picture(), **slots)
            raise gr.Error(message, duration=None, print_exception=False, visible=False) from error
        except ServerStoppedError as error:
            raise gr.Error("the page has been stopped", duration=None, print_exception=False) from error

    # Gradio reads the names of its API and the request from the signature.
    names = [Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD) for field in fields(PageRequest)]
    mode = Parameter("mode", Parameter.POSITIONAL_OR_KEYWORD)
    client = Parameter("client", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    talk.__signature__ = Signature([*names, mode, client])  # type: ignore[attr-defined]
    talk.__annotations__ = {"client": gr.Request}
    return talk


class ProgressReport:
    """Words the progress of one generation: what it does, the time that has gone by, and the time that remains."""

    def __init__(self, service: GenerationService, request: PageRequest) -> None:
        self._begin = time.monotonic()
        self._phase_begin, self._phase = self._begin, "read"
        self._denoising_end: float | None = None
        self._steps = int(request.num_inference_steps or 1)
        self._stream = request.stream
        config = request.to_config(service.config, service.max_seconds)
        files = request.files()
        self._seconds = service.video_seconds(config, files)
        self._estimate = service.estimated_seconds(config, files)
        self._rest = service.speed.other_seconds(self._seconds * config.fps)
        self._shown = ""

    def updates(self, snapshot: ProgressSnapshot) -> TalkUpdates | None:
        """Returns what changes on the page; None: nothing that would be seen."""
        now = time.monotonic()
        if snapshot.phase != self._phase:
            self._phase, self._phase_begin = snapshot.phase, now
        content = progress_html(self._text(snapshot, now), self._fraction(snapshot))
        if content == self._shown and snapshot.frame is None:
            return None
        self._shown = content
        updates = NO_CHANGE._replace(progress=content)
        if snapshot.frame is None:
            return updates
        return updates._replace(picture=gr.update(value=snapshot.frame, visible=True))

    def _text(self, snapshot: ProgressSnapshot, now: float) -> str:
        words = PHASE_WORDS[snapshot.phase]
        if self._stream and snapshot.first_frame_latency is not None:
            words = (
                f"{snapshot.generated_seconds:.1f} s of video shown, "
                f"first frame after {snapshot.first_frame_latency:.1f} s"
            )
        elif snapshot.phase == "denoise" and not self._stream:
            words += f": step {round(snapshot.fraction * self._steps)} of {self._steps}"
        remaining = self._remaining_seconds(snapshot, now)
        left = "" if remaining is None else f" · about {duration_text(remaining)} left"
        return f"{words} · {duration_text(now - self._begin)} elapsed{left}"

    def _remaining_seconds(self, snapshot: ProgressSnapshot, now: float) -> float | None:
        """Returns what remains: by the pace of this generation where it is known, else by the estimate."""
        if self._stream:
            return None
        if snapshot.phase == "denoise" and snapshot.fraction > 0:
            pace = (now - self._phase_begin) / snapshot.fraction
            self._denoising_end = now + (1 - snapshot.fraction) * pace
        if snapshot.phase != "read" and self._denoising_end is not None:
            return max(0.0, self._denoising_end + self._rest - now)
        return None if self._estimate is None else max(0.0, self._estimate - (now - self._begin))

    def _fraction(self, snapshot: ProgressSnapshot) -> float:
        if self._stream and snapshot.phase != "measure":
            return snapshot.generated_seconds / self._seconds * PHASE_START_FRACTION["measure"]
        begin = PHASE_START_FRACTION[snapshot.phase]
        end = min((other for other in PHASE_START_FRACTION.values() if other > begin), default=1.0)
        return begin + snapshot.fraction * (end - begin)


def _finished(result: GenerationResult, note: str) -> TalkUpdates:
    return NO_CHANGE._replace(
        video=str(result.video),
        line=result.summary,
        plot=mouth_curve_figure(result.mouth_curve),
        record=str(result.record),
        name=result.video.parent.name,
        picture=_hidden_picture(),
        progress=message_html(note, "warning"),
    )


def _hidden_picture() -> dict[str, Any]:
    return gr.update(value=None, visible=False)


def _check_heard(ticket: Ticket, audience: Audience, client: gr.Request) -> None:
    if ticket.is_unheard(audience.is_listened_to(str(client.session_hash))):
        raise InputError(
            f"nobody has listened to this video for {UNHEARD_SECONDS:g} s; listen to the events of a call at once",
            code=ErrorCode.conflict,
        )
