"""Program that synthesizes one sentence with eSpeak NG (ctypes): request on stdin, audio and phonemes on stdout.

Functions and events are those of espeak-ng's public header `speak_lib.h`. The library keeps state between sentences, so
that repeating a sentence in one process gives different audio; a new process per sentence is deterministic.

Request: one JSON object {"text", "voice", "rate" (words per minute), "pitch" (0 to 100), "range" (0 to 100)}.
Response: one JSON line {"sample_rate", "phonemes": [[seconds, mnemonic], ...]}, then 16-bit mono samples.
"""

import ctypes
import json
import sys
from typing import Any

SYNCHRONOUS_OUTPUT = 2
PHONEME_EVENTS = 1
EVENT_LIST_END = 0
EVENT_PHONEME = 7
PARAMETER_RATE, PARAMETER_PITCH, PARAMETER_RANGE = 1, 3, 4
CHARACTER_POSITION, UTF8 = 1, 1


class _Identifier(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identifier),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def synthesize(request: dict[str, Any]) -> tuple[int, list[tuple[float, str]], bytes]:
    """Synthesizes one request.

    Returns:
        the sample rate in Hz, (seconds, mnemonic) per phoneme, and the 16-bit samples.

    Raises:
        RuntimeError: the library cannot be initialized, does not have the voice, or rejects the text.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data_path = str(espeakng_loader.get_data_path()).encode()
    sample_rate = library.espeak_Initialize(SYNCHRONOUS_OUTPUT, 0, data_path, PHONEME_EVENTS)
    if sample_rate <= 0:
        raise RuntimeError(f"eSpeak NG cannot be initialized (code {sample_rate})")
    # Breath noise comes from a random generator that the library seeds with the current time.
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    samples: list[bytes] = []
    phonemes: list[tuple[float, str]] = []

    def collect(wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            samples.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while events[index].type != EVENT_LIST_END:
            if events[index].type == EVENT_PHONEME:
                mnemonic = events[index].id.string.decode("utf-8", "replace")
                phonemes.append((events[index].audio_position / 1000, mnemonic))
            index += 1
        return 0

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        raise RuntimeError(f"eSpeak NG has no voice '{request['voice']}'")
    library.espeak_SetParameter(PARAMETER_RATE, int(request["rate"]), 0)
    library.espeak_SetParameter(PARAMETER_PITCH, int(request["pitch"]), 0)
    library.espeak_SetParameter(PARAMETER_RANGE, int(request["range"]), 0)
    text = request["text"].encode()
    if library.espeak_Synth(text, len(text) + 1, 0, CHARACTER_POSITION, 0, UTF8, None, None) != 0:
        raise RuntimeError("eSpeak NG rejected the text")
    library.espeak_Synchronize()
    return sample_rate, phonemes, b"".join(samples)


def main() -> None:
    """Reads a request from stdin and writes the response to stdout."""
    sample_rate, phonemes, samples = synthesize(json.loads(sys.stdin.buffer.read()))
    header = json.dumps({"sample_rate": sample_rate, "phonemes": phonemes})
    sys.stdout.buffer.write(header.encode() + b"\n" + samples)


if __name__ == "__main__":
    main()
