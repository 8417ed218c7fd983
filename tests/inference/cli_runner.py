"""scripts/infer.py inside the tests' own process: what it prints and how it ends."""

from pathlib import Path

import numpy as np
import pytest

from fantasytalking.common.errors import exit_cleanly
from fantasytalking.media import write_image
from tests.helpers.scripts import CommandResult


def run_infer(capsys: pytest.CaptureFixture[str], *arguments: object) -> CommandResult:
    from fantasytalking.inference.cli import run_inference_cli

    capsys.readouterr()
    code = 0
    try:
        exit_cleanly(lambda: run_inference_cli([str(item) for item in arguments], "test"))
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        code = stop.code
    captured = capsys.readouterr()
    return CommandResult(code, captured.out, captured.err)


def write_inputs(folder: Path, face: np.ndarray, samples: np.ndarray) -> Path:
    """face.png and speech.wav."""
    write_picture(folder / "face.png", face)
    write_wav(folder / "speech.wav", samples)
    return folder


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1) -> Path:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    write_image(path, pixels)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
