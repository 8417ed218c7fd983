"""Makes docs/assets/demo.webp from the video of scripts/demo.sh: the portrait, the frames, and the sound below them.

    bash scripts/demo.sh
    python docs/make_preview.py

A README cannot play sound, so the waveform and its playhead show what is spoken at each moment.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fantasytalking.media import read_audio, read_video

ROOT = Path(__file__).resolve().parent.parent
SIDE, GAP, WAVE = 240, 8, 48
"""Pixels: side of the two pictures, space around them, height of the waveform."""
WIDTH, HEIGHT = 2 * SIDE + 3 * GAP, SIDE + WAVE + 3 * GAP
RATE = 16_000
GROUND, QUIET, SPOKEN, HEAD = (255, 255, 255), (190, 195, 205), (40, 90, 200), (200, 40, 40)


def loudness_columns(samples: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Peak of every column of the waveform, (columns,) in [0, 1]."""
    peaks = np.array([np.abs(part).max(initial=0.0) for part in np.array_split(samples, columns)])
    return peaks / max(float(peaks.max()), 1e-6)


def draw_frame(
    portrait: Image.Image, frame: NDArray[np.uint8], columns: NDArray[np.float32], played: float
) -> Image.Image:
    """One picture of the animation; `played` is the share of the sound that has been heard."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    sheet.paste(portrait, (GAP, GAP))
    sheet.paste(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (2 * GAP + SIDE, GAP))
    draw, middle = ImageDraw.Draw(sheet), HEIGHT - GAP - WAVE // 2
    for column, peak in enumerate(columns):
        half = max(1, round(peak * WAVE / 2))
        color = SPOKEN if column < played * len(columns) else QUIET
        draw.line([(GAP + column, middle - half), (GAP + column, middle + half)], fill=color)
    head = GAP + round(played * (len(columns) - 1))
    draw.line([(head, middle - WAVE // 2), (head, middle + WAVE // 2)], fill=HEAD, width=2)
    return sheet


def main() -> None:
    """Reads outputs/demo.mp4 and data/demo, writes docs/assets/demo.webp."""
    video = read_video(ROOT / "outputs" / "demo.mp4")
    columns = loudness_columns(read_audio(ROOT / "data/demo/speech.wav", sample_rate=RATE), WIDTH - 2 * GAP)
    portrait = Image.open(ROOT / "data/demo/portrait.png").convert("RGB").resize((SIDE, SIDE))
    count = len(video.frames)
    sheets = [draw_frame(portrait, frame, columns, number / (count - 1)) for number, frame in enumerate(video.frames)]
    target = ROOT / "docs/assets/demo.webp"
    sheets[0].save(
        target, save_all=True, append_images=sheets[1:], duration=round(1000 / video.fps), loop=0, quality=70, method=4
    )
    sys.stdout.write(f"{target.relative_to(ROOT)}: {count} frames, {target.stat().st_size / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
