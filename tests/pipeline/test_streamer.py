"""Streams: what each window makes of the one before, what is heard and held, and when frames come."""

import dataclasses
import os
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from fantasytalking.audio_tokens import WAV2VEC2_TIMING
from fantasytalking.common.errors import ErrorCode
from fantasytalking.encoders.audio_loading import audio_encoder_from_components
from fantasytalking.encoders.vae_streaming import StreamingVaeDecoder
from fantasytalking.encoders.wan import VideoAutoencoder
from fantasytalking.encoders.wav2vec import token_count
from fantasytalking.media.audio_stream import AudioSampleQueue, DualRateAudio
from fantasytalking.pipeline.condition_encoder import encode_audio
from fantasytalking.pipeline.generation_plan import GenerationControls
from fantasytalking.pipeline.guidance import GuidanceConfig, GuidanceSchedule
from fantasytalking.pipeline.sliding_window import plan_windows
from fantasytalking.pipeline.streaming.streamer import Streamer
from fantasytalking.pipeline.streaming.streaming_audio import StreamingAudioEncoder
from fantasytalking.pipeline.streaming.window_history import (
    CausalWindow,
    WindowHistory,
    blend_velocity,
    first_causal_window,
    next_causal_window,
)
from fantasytalking.pipeline.timeline import Timeline
from tests.helpers.errors import raises_input_error
from tests.helpers.tiny_pipeline import random_speech

RATES = (16_000, 48_000)


def stream(pipe, portrait, audio: AudioSampleQueue, seed: int = 3, **changes) -> Streamer:
    guidance = GuidanceConfig(text=GuidanceSchedule(1.0, 1.0))
    controls = GenerationControls(guidance=guidance, num_inference_steps=2, window_frames=17, overlap_frames=8)
    controls = dataclasses.replace(controls, **changes)
    return pipe.stream(portrait, audio, controls, generator=torch.Generator().manual_seed(seed))


def streamed(pipe, portrait, seconds: float, **changes) -> tuple[list[float], np.ndarray]:
    pieces = list(stream(pipe, portrait, AudioSampleQueue([random_speech(seconds)]), **changes))
    return [piece.start_seconds for piece in pieces], np.concatenate([piece.frames for piece in pieces])


def all_windows(length: int, overlap: int, latent_frames: int) -> list[CausalWindow]:
    windows = [first_causal_window(length, overlap, latent_frames if latent_frames <= length else None)]
    while not windows[-1].is_last:
        nominal = windows[-1].emittable + windows[-1].end - windows[-1].start
        windows.append(next_causal_window(windows[-1], latent_frames if latent_frames <= nominal else None))
    return windows


@pytest.mark.parametrize("latent_frames", [2, 4, 5, 6, 7, 8, 9, 23])
def test_windows_show_every_latent_frame_once(latent_frames):
    windows = all_windows(5, 2, latent_frames)
    shown = [frame for window in windows for frame in range(window.emitted, window.emittable)]
    assert shown == list(range(latent_frames))
    for window in windows:
        assert len(window.frame_indices) == min(5, latent_frames) and window.frame_indices[-1] < latent_frames
        assert bool((window.overlap_weight[window.frame_indices < window.emitted] == 1).all())
        assert bool((window.overlap_weight[window.frame_indices >= window.denoised] == 0).all())


def test_shares_in_an_overlap_are_those_of_windows_made_together():
    """Nine latent frames are two windows in both plans."""
    together, (_, second) = plan_windows(9, 6, 2), all_windows(6, 2, 9)
    torch.testing.assert_close(second.frame_indices, together[1].frame_indices)
    torch.testing.assert_close(1 - second.overlap_weight, together[1].blend_weights)


def test_the_mix_ends_at_the_weighted_mean_of_both_windows():
    """Straight steps with known velocities: the overlap arrives where its shares say, at every level."""
    generator = torch.Generator().manual_seed(0)
    first, second = all_windows(5, 2, 7)
    old, own = torch.randn(1, 16, 5, 2, 2, generator=generator), torch.randn(1, 16, 5, 2, 2, generator=generator)
    noise = torch.randn(1, 16, 7, 2, 2, generator=generator)
    trail = WindowHistory()
    trail.store(first, old, noise[:, :, :5])
    begun, earlier = trail.start_window(second, noise[:, :, 5:])
    torch.testing.assert_close(begun, noise[:, :, second.frame_indices])
    torch.testing.assert_close(earlier[:, :, :3], old[:, :, [0, 3, 4]])
    share = second.overlap_weight.view(1, 1, -1, 1, 1)
    assert share.flatten().tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    wanted = share * earlier + (1 - share) * own
    latents, levels = begun, [1.0, 0.9, 0.6, 0.25, 0.0]
    for level, following in pairwise(levels):
        velocity = blend_velocity(begun - own, earlier, begun, second.overlap_weight)
        latents = latents + (following - level) * velocity
        torch.testing.assert_close(latents, (1 - following) * wanted + following * begun, atol=1e-5, rtol=1e-5)


def test_what_was_shown_stays(pipe, portrait):
    """A last window that begins early leaves shown latents as they are."""
    kept = []

    class Watched(WindowHistory):
        def store(self, window, latents, noise):
            kept.append((window, latents))
            super().store(window, latents, noise)

    streamer = stream(pipe, portrait, AudioSampleQueue([random_speech(1.1)]))
    streamer.history = Watched()
    list(streamer)
    (first, earlier), (last, latents) = kept[-2:]
    assert last.is_last and last.start < last.emitted
    for frame in range(last.start, last.emitted):
        torch.testing.assert_close(
            latents[:, :, last.frame_indices == frame],
            earlier[:, :, first.frame_indices == frame],
            atol=1e-5,
            rtol=1e-5,
        )
    waiting = range(last.emitted, last.denoised)
    assert any(
        not torch.allclose(
            latents[:, :, last.frame_indices == frame], earlier[:, :, first.frame_indices == frame], atol=1e-3
        )
        for frame in waiting
    )


@pytest.mark.parametrize(("seconds", "fps"), [(0.04, 25), (0.3, 25), (0.68, 25), (0.7, 25), (1.5, 23), (1.0, 29.97)])
def test_a_stream_is_as_long_as_its_sound(pipe, portrait, seconds, fps):
    starts, frames = streamed(pipe, portrait, seconds, fps=fps, num_inference_steps=1)
    assert frames.shape == (max(1, round(seconds * fps)), 32, 32, 3) and frames.dtype == np.uint8
    assert starts == pytest.approx([0, *((1 + 4 * number) / fps for number in range(len(starts) - 1))])


def test_one_window_is_what_is_made_whole(pipe, portrait):
    """Where the sound fits into one window there is nothing to be causal about, but for the draw of the noise."""
    _, frames = streamed(pipe, portrait, 0.6)
    shape = (1, 16, 1, 4, 4)
    generator = torch.Generator().manual_seed(3)
    noise = torch.cat([torch.randn(shape, generator=generator) for _ in range(5)], dim=2)

    made = pipe(
        portrait,
        random_speech(0.6),
        text_guidance_scale=1.0,
        num_inference_steps=2,
        window_frames=17,
        overlap_frames=8,
        latents=noise,
        output_type="latent",
    )
    whole = np.stack(list(pipe.iterate_frames(made.frames, made.num_frames)))
    assert np.abs(frames.astype(int) - whole.astype(int)).max() <= 1


def test_the_same_again_is_the_same(pipe, portrait):
    _, frames = streamed(pipe, portrait, 1.1)
    assert np.array_equal(streamed(pipe, portrait, 1.1)[1], frames)
    assert not np.array_equal(streamed(pipe, portrait, 1.1, seed=4)[1], frames)


def test_frames_come_before_the_sound_has_ended(pipe, portrait):
    """A window is made as soon as its own sound and half a second more are there."""
    samples = random_speech(4.0)
    given = 0

    def blocks():
        nonlocal given
        for begin in range(0, len(samples), 800):
            given = begin + 800
            yield samples[begin : begin + 800]

    heard_at = [
        (piece.start_seconds, given / 16_000)
        for piece in stream(pipe, portrait, AudioSampleQueue(blocks()), num_inference_steps=1)
    ]
    assert heard_at[0] == (0, pytest.approx(17 / 25 + 0.5, abs=0.06))
    for start, heard in heard_at:
        assert heard <= start + (17 / 25 + 0.5) + 0.06
    assert given == len(samples)


def test_sound_through_a_pipe_is_the_same_video(pipe, portrait):
    samples = np.round(random_speech(1.3) * 32767).astype("<i2")
    ends = os.pipe()

    def send() -> None:
        with os.fdopen(ends[1], "wb") as sender:
            sender.write(samples.tobytes())

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(ends[0], "rb") as reader:
        piped = list(stream(pipe, portrait, DualRateAudio.from_pipe(reader, RATES).model_audio, num_inference_steps=1))
    sender.join()
    direct = list(stream(pipe, portrait, AudioSampleQueue([samples.astype(np.float32) / 32768]), num_inference_steps=1))
    assert len(piped) == len(direct)
    assert all(np.array_equal(one.frames, other.frames) for one, other in zip(piped, direct, strict=True))


def test_what_is_held_does_not_grow_with_the_length(pipe, portrait):
    held = []
    for seconds in (1.5, 6.0):
        queue = AudioSampleQueue(random_speech(seconds).reshape(-1, 400))
        streamer = stream(pipe, portrait, queue, num_inference_steps=1)
        most = [0, 0, 0]
        for _ in streamer:
            features = [value for value in streamer.decoder._feature_cache if isinstance(value, torch.Tensor)]
            now = (streamer.history.nbytes, streamer.cache.nbytes(), sum(value.nbytes for value in features))
            most = [max(*pair) for pair in zip(most, now, strict=True)]
            assert len(queue._buffer) <= (8 + 17 / 25 + 1) * 16_000
        held.append(most)
    assert held[0] == held[1] and min(held[0]) > 0
    assert held[0][0] == 2 * 4 * 16 * 5 * 4 * 4, "latents and noise of one window"


@pytest.mark.parametrize("rule", ["seconds", "official"])
def test_one_window_hears_what_a_whole_video_hears(pipe, rule):
    encoder = audio_encoder_from_components(pipe.audio_encoder, pipe.audio_processor)
    samples = random_speech(0.6)
    timing = Timeline.from_samples(len(samples), 25.0, 4)
    hearing = StreamingAudioEncoder(encoder, AudioSampleQueue([samples]), 25.0, 4, rule, 0.34)
    assert hearing.wait_for_frames(5) == timing
    heard = hearing.encode_window(first_causal_window(5, 2, timing.num_latent_frames))
    whole = encode_audio(encoder, samples, timing, rule, 0.34)
    assert torch.equal(heard.mask, whole.mask)
    torch.testing.assert_close(heard.tokens, whole.tokens)


@pytest.mark.parametrize("rule", ["seconds", "official"])
def test_later_windows_hear_the_same_time_as_in_a_whole_video(pipe, rule):
    """Sound whose token t is the number t: the token of a frame follows from its time, also late in the audio."""

    class Counted:
        timing, stride, token_count = WAV2VEC2_TIMING, 320, staticmethod(token_count)

        def encode(self, samples):
            first = round(float(samples[0]) / 320)
            return torch.arange(first, first + token_count(len(samples)), dtype=torch.float32)[:, None]

    total = 24 * 16_000
    samples = np.arange(total, dtype=np.float32)
    timing = Timeline.from_samples(total, 25.0, 4)
    whole = encode_audio(Counted(), samples, timing, rule, 0.34)
    hearing = StreamingAudioEncoder(Counted(), AudioSampleQueue([samples]), 25.0, 4, rule, 0.34)  # type: ignore[arg-type]
    window, heard = None, []
    while window is None or not window.is_last:
        nominal = 9 if window is None else window.emittable + 8
        end = hearing.wait_for_frames(nominal)
        known = None if end is None else end.num_latent_frames
        window = first_causal_window(9, 3, known) if window is None else next_causal_window(window, known)
        heard.append((window, hearing.encode_window(window)))
    assert len(heard) > 20
    for window, audio in heard:
        for place, frame in enumerate(window.frame_indices.tolist()):
            here, there = (part.tokens[0, at][part.mask[0, at]] for part, at in ((audio, place), (whole, frame)))
            tolerance = 0 if rule == "seconds" else 1  # the released rule counts by a ratio that the length changes
            assert abs(here.mean() - there.mean()) <= tolerance + 1e-4, (window, frame)


def test_frames_decoded_as_they_come_equal_frames_decoded_at_once(pipe):
    latents = torch.randn(1, 16, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = VideoAutoencoder(pipe.vae).decode(latents)[0]
    decoder, other = StreamingVaeDecoder(pipe.vae), StreamingVaeDecoder(pipe.vae)
    pieces = []
    for part in latents.split([1, 3, 2, 1], dim=2):
        for piece in decoder.decode(part):
            pieces.append(piece)
            next(other.decode(latents[:, :, :1]))  # another video in between
    assert [piece.shape[1] for piece in pieces] == [1, 4, 4, 4, 4, 4, 4]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_empty_sound_is_refused(pipe, portrait):
    with raises_input_error(ErrorCode.out_of_range, "audio", 0):
        list(stream(pipe, portrait, AudioSampleQueue([])))


def test_settings_are_checked_before_anything_is_read(pipe, portrait):
    for changes, value in (({"overlap_frames": 12}, 3), ({"num_inference_steps": 0}, 0)):
        with raises_input_error(ErrorCode.out_of_range, next(iter(changes)), value):
            stream(pipe, portrait, AudioSampleQueue(iter(())), **changes)
