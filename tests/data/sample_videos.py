"""Writes small videos of the portrait world: good ones and every kind of bad one."""

import os
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking.media import write_video
from fantasytalking.portrait_world.corpus.rendered_clip import ClipPlan, PortraitRenderer, perform_plan
from fantasytalking.portrait_world.people.identity import make_identity

SENTENCE = "We took the early train to the sea."
FPS, FRAMES = 25, 40
NOT_UTF8 = os.fsdecode(b"lat\xe9.mp4")
"""Name of a file whose bytes are not UTF-8."""


@cache
def talking_clip(identity: int, size: int = 128) -> tuple[NDArray[np.uint8], NDArray[np.float32], int]:
    """(40, size, size, 3) frames, samples and sample rate of a person who says a sentence."""
    acted = perform_plan(make_identity(identity), ClipPlan(identity, 0, SENTENCE, seed=0, expression=0.7, body=0.5))
    frames = np.stack(list(islice(PortraitRenderer(make_identity(identity), size).frames(acted.animation), FRAMES)))
    samples = acted.speech.samples[: round(FRAMES / FPS * acted.speech.sample_rate)]
    return frames, samples.astype(np.float32) / 32768, acted.speech.sample_rate


def write_good_videos(folder: Path) -> None:
    """talk.mp4: one person; more/cut.mp4: two scenes of different people."""
    frames, samples, rate = talking_clip(0)
    write_video(folder / "talk.mp4", frames, fps=FPS, audio=samples, sample_rate=rate)
    others, speech, rate = talking_clip(1)
    both = np.concatenate([others[:30], frames[:30]])
    write_video(folder / "more" / "cut.mp4", both, fps=FPS, audio=speech[: round(60 / FPS * rate)], sample_rate=rate)
    (folder / "more" / "cut.txt").write_text("Somebody else is talking.")


def write_bad_videos(folder: Path) -> dict[str, str]:
    """Writes one video per rejection reason; returns the expected reason of each file."""
    frames, samples, rate = talking_clip(0)
    others, _, _ = talking_clip(1)
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    count = min(len(frames), len(others))
    videos = {
        "silent": (frames, samples * 0, FPS),
        "no_sound": (frames, None, FPS),
        "no_face": (noise, samples, FPS),
        "several_people": (np.concatenate([frames[:count, :, ::-1], frames[:count]], axis=2), samples, FPS),
        "sound_too_short": (frames, None, FPS),
        "low_frame_rate": (frames[::3], samples, FPS / 3),
        "low_resolution": (np.ascontiguousarray(frames[:, ::8, ::8]), samples, FPS),
        "too_short": (frames[:9], samples, FPS),
    }
    for reason, (images, audio, fps) in videos.items():
        if reason != "sound_too_short":
            write_video(folder / f"{reason}.mp4", images, fps=fps, audio=audio, sample_rate=rate)
    write_truncated_audio(folder / "sound_too_short.mp4", frames, samples[: rate // 4], rate)
    whole = (folder / "silent.mp4").read_bytes()
    (folder / "unreadable.mp4").write_bytes(whole[:300])
    (folder / "empty.mp4").touch()
    (folder / NOT_UTF8).touch()
    write_video(folder / "damaged.mp4", frames, fps=FPS, audio=samples, sample_rate=rate)
    whole = (folder / "damaged.mp4").read_bytes()
    (folder / "damaged.mp4").write_bytes(whole[: len(whole) // 3])
    return {f"{reason}.mp4": reason for reason in videos} | {
        "unreadable.mp4": "unreadable",
        "empty.mp4": "unreadable",
        NOT_UTF8: "unreadable",
        "damaged.mp4": "damaged",
    }


def write_truncated_audio(path: Path, frames: NDArray[np.uint8], samples: NDArray[np.float32], rate: int) -> None:
    """Writes a video whose audio ends long before its frames; `write_video` would pad it."""
    import av

    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FPS)
        picture.height, picture.width = frames.shape[1:3]
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=rate, layout="mono")
        block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = rate, 0
        container.mux([*sound.encode(block), *sound.encode(None)])
        for frame in frames:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(picture.encode(None))


def write_repeated(source: Path, target: Path, seconds: float) -> None:
    """Repeats a video by copying its packets until `seconds` are complete."""
    import av

    with av.open(str(target), "w") as container:
        streams: dict[int, object] = {}
        shift = 0.0
        while shift < seconds:
            with av.open(str(source)) as original:
                length = max(float(stream.duration * stream.time_base) for stream in original.streams)
                for stream in original.streams:
                    if stream.index not in streams:
                        streams[stream.index] = container.add_stream_from_template(stream)
                for packet in original.demux():
                    if packet.dts is not None:
                        ticks = round(shift / packet.time_base)
                        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                        packet.stream = streams[packet.stream.index]
                        container.mux(packet)
            shift += length + 0.1  # decoding begins before time 0
