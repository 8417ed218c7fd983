"""Splits a prepared corpus by person, so that no held-out person is trained on."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.data.manifest import ClipRecord, read_manifest

CLIPS_PER_VIDEO = 4
"""Evenly spaced clips of a video whose faces are compared."""
_BLOCK = 2048


class PersonSource(Enum):
    """What tells people apart."""

    face = "face"
    """Videos with similar faces show one person."""
    folder = "folder"
    """Each top folder of the input, as in MEAD, is one person."""
    video = "video"
    """Each video is one person."""


class PersonSplit(NamedTuple):
    """A corpus in two parts without a person in common."""

    train: list[ClipRecord]
    held_out: list[ClipRecord]
    train_people: int
    held_out_people: int
    nearest: float | None
    """Largest cosine similarity between a face of one part and one of the other; None unless faces were compared."""


def split_by_person(
    manifest: Path, held_out_fraction: float, source: PersonSource, min_similarity: float, seed: int
) -> PersonSplit:
    """Returns the clips of a manifest in two parts.

    Args:
        manifest: a manifest.jsonl.
        held_out_fraction: largest fraction of the clips to hold out, in (0, 1).
        source: what tells people apart.
        min_similarity: cosine similarity of two ArcFace embeddings from which on they are of one person, for `face`.
        seed: of the choice of people.

    Raises:
        InputError: a number is out of range, a feature file cannot be read, or there are too few people.
    """
    _check_numbers(held_out_fraction, min_similarity)
    records = read_manifest(manifest)
    faces = _faces_by_video(manifest.parent, records) if source is PersonSource.face else {}
    people = _people_by_video(records, source, faces, min_similarity)
    clips: dict[str, list[ClipRecord]] = defaultdict(list)
    for record in records:
        clips[people[record.video]].append(record)
    order = sorted(clips)
    random.Random(seed).shuffle(order)
    chosen: set[str] = set()
    left = held_out_fraction * len(records)
    for person in order:
        if len(clips[person]) <= left:
            chosen.add(person)
            left -= len(clips[person])
    if not chosen:
        raise InputError(
            f"the corpus has {len(order)} people, the least of whom has {min(map(len, clips.values()))} of the "
            f"{len(records)} clips; none fits into --held-out {held_out_fraction:g}: increase it",
            code=ErrorCode.out_of_range,
            field="--held-out",
            value=held_out_fraction,
        )
    train = [record for record in records if people[record.video] not in chosen]
    held_out = [record for record in records if people[record.video] in chosen]
    return PersonSplit(train, held_out, len(order) - len(chosen), len(chosen), _nearest(faces, people, chosen))


def _check_numbers(held_out_fraction: float, min_similarity: float) -> None:
    limits = {"--held-out": (held_out_fraction, 0, 1), "--min-similarity": (min_similarity, -1, 1)}
    for name, (value, low, high) in limits.items():
        if not low < value < high:
            raise InputError(
                f"{name} is {value:g}; it must be between {low} and {high}",
                code=ErrorCode.out_of_range,
                field=name,
                value=value,
            )


def _people_by_video(
    records: Sequence[ClipRecord], source: PersonSource, faces: dict[str, Tensor], min_similarity: float
) -> dict[str, str]:
    """A name for the person, or the people filmed together, of each video."""
    videos = list(dict.fromkeys(record.video for record in records))
    if source is PersonSource.video:
        return {video: video for video in videos}
    if source is PersonSource.folder:
        return {video: _top_folder(video) for video in videos}
    number = {video: index for index, video in enumerate(videos)}
    owners = torch.tensor([number[video] for video in videos for _ in faces[video]])
    groups = _connected(torch.cat([faces[video] for video in videos]), owners, len(videos), min_similarity)
    return {video: videos[group] for video, group in zip(videos, groups.tolist(), strict=True)}


def _connected(embeddings: Tensor, owners: Tensor, num_videos: int, min_similarity: float) -> Tensor:
    """Returns the (videos,) smallest video number of each group of videos that similar faces connect."""
    groups = torch.arange(num_videos)
    while True:
        of_faces, smallest = groups[owners], groups.clone()
        for start in range(0, len(embeddings), _BLOCK):
            similar = embeddings[start : start + _BLOCK] @ embeddings.T >= min_similarity
            reached = torch.where(similar, of_faces, num_videos).amin(dim=1)
            smallest.scatter_reduce_(0, owners[start : start + _BLOCK], reached, "amin")
        if torch.equal(smallest, groups):
            return groups
        groups = smallest


def _top_folder(video: str) -> str:
    parts = PurePosixPath(video).parts
    if len(parts) == 1:
        raise InputError(
            f"video '{video}' lies in no folder of the input, so that its person is unknown; use --by face or video",
            code=ErrorCode.conflict,
            field="--by",
            value=video,
        )
    return parts[0]


def _faces_by_video(folder: Path, records: Iterable[ClipRecord]) -> dict[str, Tensor]:
    """(faces, 512) unit-length embeddings of each video."""
    clips: dict[str, list[ClipRecord]] = defaultdict(list)
    for record in records:
        clips[record.video].append(record)
    return {
        video: torch.cat(
            [_read_faces(folder / record.features) for record in found[:: -(-len(found) // CLIPS_PER_VIDEO)]]
        )
        for video, found in clips.items()
    }


def _read_faces(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            faces: Tensor = file.get_tensor("face")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"feature file '{path}' cannot be read ({error}); prepare the corpus again",
            code=ErrorCode.malformed_file,
            field="features",
            value=str(path),
        ) from error
    return torch.nn.functional.normalize(faces.float(), dim=-1)


def _nearest(faces: dict[str, Tensor], people: dict[str, str], chosen: set[str]) -> float | None:
    held_out = [values for video, values in faces.items() if people[video] in chosen]
    train = [values for video, values in faces.items() if people[video] not in chosen]
    if not held_out or not train:
        return None
    mine, others = torch.cat(held_out), torch.cat(train)
    return max(float((block @ others.T).max()) for block in mine.split(_BLOCK))
