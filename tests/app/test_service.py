"""One visitor cannot hold the page for long, and the page ends on a signal."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fantasytalking.app import audience, service
from fantasytalking.app.given_files import check_sound
from fantasytalking.app.request import PageRequest
from fantasytalking.app.service import GenerationService, ServerStoppedError
from fantasytalking.app.talk import WAITING_SECONDS
from fantasytalking.app.uploads import copy_upload
from fantasytalking.common.errors import InputError
from fantasytalking.inference.config import InferConfig
from tests.app.conftest import MAX_PAGE_SECONDS, Server, command, free_port, wait_until
from tests.app.test_guard import API, META, upload
from tests.app.test_page import ASKED
from tests.helpers.tiny_pipeline import random_speech
from tests.inference.cli_runner import write_wav
from tests.media.sound_files import damaged

pytest.importorskip("gradio")
pytest.importorskip("mediapipe")
httpx = pytest.importorskip("httpx")

LONG = {**ASKED, "num_inference_steps": 50, "max_seconds": 2}
"""The longest video that the page of the tests generates."""


def asked(**changes: Any) -> PageRequest:
    files = {name: str(ASKED[name]) for name in ("portrait", "audio")}
    return PageRequest(**{**ASKED, **files, **changes})


@pytest.fixture
def own(saved: Path, tmp_path: Path) -> GenerationService:
    config = InferConfig(base=str(saved), sizes=["32x32"], window_frames=9, overlap_frames=4, num_inference_steps=2)
    return GenerationService(config, tmp_path / "made", MAX_PAGE_SECONDS)


def nothing(*values: object) -> None:
    pass


@pytest.mark.parametrize("stream", [False, True])
def test_notes_about_sound_and_prompt_come_with_the_result(own: GenerationService, tmp_path: Path, stream: bool):
    whole = write_wav(tmp_path / "whole.wav", random_speech(0.9))
    cut = damaged(whole, tmp_path / "cut.wav", cut_to=0.8)
    (missing,) = check_sound(cut, MAX_PAGE_SECONDS).notes
    assert check_sound(whole, MAX_PAGE_SECONDS).notes == () and "missing at its end" in missing
    request = asked(audio=str(cut), prompt="word " * 600, max_seconds=2, stream=stream)
    for _ in range(2):  # a log states it once, each visitor's result states it
        prompt, sound = sorted(own.generate(request, nothing).warnings, reverse=True)
        assert sound == f"'cut.wav': {missing}" and prompt.startswith("the prompt 'word")
    assert own.generate(asked(audio=str(whole), prompt=""), nothing).warnings == ()


def test_steps_times_frames_are_limited(own: GenerationService, tmp_path: Path):
    with pytest.raises(InputError, match=r"2\.0 s at 60 .* 100 steps are 12,000 .* up to 2,[0-9]{3}:") as raised:
        own.generate(asked(num_inference_steps=100, fps=60, max_seconds=2), nothing)
    assert raised.value.field == "num_inference_steps" and not own.output_folder.exists()
    # What counts is the sound that there is, not what a control would allow.
    write_wav(tmp_path / "short.wav", random_speech(0.3))
    short = asked(audio=str(tmp_path / "short.wav"), num_inference_steps=100, max_seconds=2)
    with pytest.raises(StopIteration):
        own.generate(short, lambda phase, fraction: next(iter(())) if phase == "denoise" else None)


def test_the_newest_video_stays_whatever_the_clock_says(own: GenerationService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "MAX_KEPT_VIDEOS", 2)
    for name in ("made-20991231-235959-aaaaaaaa", "made-20991231-235959-bbbbbbbb", f"made-000007-{'0' * 32}"):
        (own.output_folder / name).mkdir(parents=True)
        os.utime(own.output_folder / name, (5e9, 5e9))
    (own.output_folder / "notes").mkdir()
    made = own.generate(asked(), nothing)
    assert made.video.is_file() and made.video.parent.name.startswith("made-000008-")
    assert {path.name for path in own.output_folder.iterdir()} == {
        *("notes", f"made-000007-{'0' * 32}", made.video.parent.name)
    }


def test_stopping_ends_the_running_video_and_refuses_the_next(own: GenerationService):
    ended: list[BaseException] = []
    steps = threading.Event()

    def generate() -> None:
        try:
            own.generate(asked(num_inference_steps=50), lambda phase, fraction: steps.set())
        except ServerStoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    assert steps.wait(60)
    begin = time.monotonic()
    assert own.stop(patience=10) and time.monotonic() - begin < 5
    thread.join(10)
    assert len(ended) == 1 and list(own.output_folder.iterdir()) == []


def test_a_video_that_does_not_end_leaves_nothing_all_the_same(own: GenerationService):
    reached, released = threading.Event(), threading.Event()

    def hold(phase: str, fraction: float) -> None:
        if phase == "denoise":
            reached.set()
            released.wait(60)

    def generate() -> None:
        with pytest.raises(ServerStoppedError):
            own.generate(asked(), hold)

    thread = threading.Thread(target=generate)
    thread.start()
    assert reached.wait(60)
    assert not own.stop(patience=0.1) and list(own.output_folder.iterdir()) == []
    released.set()
    thread.join(60)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "device", "missing"])
def test_only_regular_files_are_copied(tmp_path: Path, kind: str):
    source = tmp_path / "source.png"
    makers: dict[str, Callable[[], object]] = {
        "link": lambda: source.symlink_to("/etc/passwd"),
        "fifo": lambda: os.mkfifo(source),
        "folder": source.mkdir,
        "missing": lambda: None,
    }
    if kind == "device":
        source = Path("/dev/zero")
    else:
        makers[kind]()
    with pytest.raises(InputError):
        copy_upload(source, tmp_path / "copy.png")
    assert not (tmp_path / "copy.png").exists()


def wait_until_idle(server: Server) -> None:
    """Waits until no job runs, and none of those that waited has begun."""
    for _ in range(5):
        wait_until(lambda: not server.service._lock.locked())
        time.sleep(2 * WAITING_SECONDS)


@pytest.fixture
def call(server: Server) -> Any:
    """call() asks for the longest video and returns the id of its events."""
    with httpx.Client(base_url=server.url, timeout=60) as http:
        files = {name: {"path": upload(http, ASKED[name]), **META} for name in ("portrait", "audio")}

        def call() -> str:
            answer = http.post(f"{API}/call/talk", json={"data": list({**LONG, **files}.values())})
            return answer.json()["event_id"]

        yield call


def test_a_job_that_nobody_listens_to_ends(server: Server, call: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audience, "UNHEARD_SECONDS", 0.5)
    before = set(server.output.glob("made-*"))
    call()
    wait_until(lambda: set(server.output.glob("made-*")) != before)
    wait_until(lambda: set(server.output.glob("made-*")) == before, 10)


def test_a_client_has_a_few_jobs_at_a_time(server: Server, call: Any, monkeypatch: pytest.MonkeyPatch):
    refused = []
    with ExitStack() as opened:
        for event in [call() for _ in range(audience.MAX_JOBS_PER_CLIENT + 1)]:
            stream = opened.enter_context(httpx.stream("GET", f"{server.url}{API}/call/talk/{event}", timeout=60))
            lines = stream.iter_lines()
            for line in lines:
                # An admitted job reports progress; a refused one says so beside the button, then fails.
                if "elapsed" in line or "before this one" in line:
                    break
                if line == "event: error":
                    refused.append(next(lines))
                    break
    assert len(refused) == 1 and "3 videos of yours are in the queue" in refused[0]
    monkeypatch.setattr(audience, "UNHEARD_SECONDS", 0.0)
    wait_until_idle(server)


def test_the_queue_is_in_order_and_has_an_end():
    queue = audience.JobQueue()
    with ExitStack() as entered:
        tickets = [entered.enter_context(queue.entered(f"10.0.0.{number // 3}")) for number in range(audience.MAX_JOBS)]
        assert [queue.ahead(ticket) for ticket in tickets] == list(range(audience.MAX_JOBS))
        with pytest.raises(InputError, match="9 videos are in the queue"), queue.entered("10.0.0.9"):
            pass
    with queue.entered("10.0.0.0") as ticket:
        assert queue.ahead(ticket) == 0 and not ticket.is_unheard(False)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_page_within_seconds(settings: Path, tmp_path: Path, ending: signal.Signals):
    port, output = free_port(), tmp_path / "made"
    options = ("--config", settings, "--port", port, "--output", output, "--max-seconds", 30)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("GRADIO_TEMP_DIR", None)
    process = subprocess.Popen(command(*options), env=environment, stderr=subprocess.PIPE, text=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:

        def is_up() -> bool:
            try:
                return http.get("/config").is_success
            except httpx.ConnectError:
                return False

        wait_until(is_up, 120)
        files = {name: {"path": upload(http, ASKED[name]), **META} for name in ("portrait", "audio")}
        data = list({**LONG, **files, "max_seconds": 30}.values())
        event = http.post(f"{API}/call/talk", json={"data": data}).json()["event_id"]
        with http.stream("GET", f"{API}/call/talk/{event}"):
            wait_until(lambda: output.exists() and any(output.iterdir()))
            time.sleep(1)
            process.send_signal(ending)
            begin = time.monotonic()
            assert process.wait(30) == 130
            assert time.monotonic() - begin < 10
    assert process.stderr is not None and "Traceback" not in process.stderr.read()
    assert list(output.iterdir()) == [] and not list(tmp_path.glob("fantasytalking-page-*"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_videos(own: GenerationService):
    from fantasytalking.app.plot import mouth_curve_figure

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    used = []
    for number in range(100):
        made = own.generate(asked(seed=number, max_seconds=0.4), nothing)
        mouth_curve_figure(made.mouth_curve)
        used.append(resident())
    assert used[-1] < 1.05 * used[9], [used[index] for index in (0, 9, 49, 99)]
    assert len(list(own.output_folder.iterdir())) == service.MAX_KEPT_VIDEOS
