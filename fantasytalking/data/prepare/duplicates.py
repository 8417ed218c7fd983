"""Finds clips that show and say what an earlier clip did: copies of a video in other sizes, names or encodings."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fantasytalking.data.manifest import RejectionReason
from fantasytalking.perception.content_hash import hash_chunks, hash_distance


class DuplicateSearch:
    """Compares each clip with those before it.

    Clips with a chunk of the sound's hash in common are compared, so that the time per clip barely grows with their
    number. Copies whose clips begin at other moments of the recording are not found.

    Args:
        min_distance: fraction of differing bits, of the picture and of the sound, from which on clips differ; 0 keeps
            all.
    """

    def __init__(self, min_distance: float) -> None:
        self._min_distance = min_distance
        self._clips: list[tuple[str, str, str]] = []
        self._by_chunk: dict[tuple[int, str], list[int]] = defaultdict(list)

    def check(self, video: str, start: float, result: Mapping[str, Any]) -> tuple[RejectionReason, str] | None:
        """Returns the reason and its detail for the copy of an earlier clip; remembers other clips.

        Args:
            video: the clip's video.
            start: seconds from the video's first frame.
            result: the stored result of the clip; those of earlier releases have no hashes.
        """
        image, sound = result.get("image_hash"), result.get("sound_hash")
        if not image or not sound or self._min_distance == 0:
            return None
        chunks = hash_chunks(sound)
        for index in sorted({index for chunk in chunks for index in self._by_chunk[chunk]}):
            name, other_image, other_sound = self._clips[index]
            found = hash_distance(image, other_image), hash_distance(sound, other_sound)
            if max(found) < self._min_distance:
                detail = f"{found[0]:.1%} of the bits of the picture and {found[1]:.1%} of the audio differ from {name}"
                return RejectionReason.DUPLICATE, f"{detail}; at least {self._min_distance:.1%} are needed"
        for chunk in chunks:
            self._by_chunk[chunk].append(len(self._clips))
        self._clips.append((f"'{video}' at {start:.2f} s", image, sound))
        return None
