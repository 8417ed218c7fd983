"""Memory-mapped store of all frames of a folder of portrait-world videos, with the positions of mouth and eyes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.files import atomic_write
from fantasytalking.portrait_world.motion.frame_state import FaceState
from fantasytalking.portrait_world.people.anatomy import Anatomy
from fantasytalking.portrait_world.people.identity import make_identity
from fantasytalking.portrait_world.render.camera import Camera, posture_from_state, scale_shifts_for_zoom

POSE_FIELDS = ("yaw", "pitch", "roll", "x", "y")


@dataclass(frozen=True)
class FrameStore:
    """Frames of consecutive videos."""

    pixels: NDArray[np.uint8]
    """(N, H, W, 3) uint8 RGB, memory-mapped."""
    feature_centers: NDArray[np.float32]
    """(N, 3, 2) column and row in pixels of the centers of the mouth and of the eyes."""
    head_units: NDArray[np.float32]
    """(N,) length of a head unit in pixels: the scale of the face."""
    video_starts: list[int]
    """Index of the first frame of every video, and N."""

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.video_starts) - 1

    def frame_range(self, video: int, start: int, count: int) -> slice:
        """Returns the indices in the store of frames `start` to `start + count` of a video."""
        first = self.video_starts[video] + start
        assert first + count <= self.video_starts[video + 1], "the range must lie within the video"
        return slice(first, first + count)

    def video_length(self, video: int) -> int:
        """Returns the number of frames of a video."""
        return self.video_starts[video + 1] - self.video_starts[video]


def open_frame_store(videos: Path, folder: Path, further: Sequence[Path] = ()) -> FrameStore:
    """Opens the store of all videos below `videos` and of the files `further`; if `folder` does not exist, they are
    decoded into it."""
    if not folder.is_dir():
        paths = [*sorted(videos.rglob("video.mp4")), *further]
        assert paths, f"no videos below {videos}"
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            _decode(paths, temporary)
    starts = json.loads((folder / "starts.json").read_text(encoding="utf-8"))
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    return FrameStore(pixels, np.load(folder / "features.npy"), np.load(folder / "head_units.npy"), starts)


def project_features(
    identity: int, poses: list[dict[str, float]], camera: Camera, zoom: float = 1.0
) -> NDArray[np.float32]:
    """Returns column and row (T, 3, 2) of the centers of mouth and eyes, from the true poses and the zoom of a clip."""
    resting = _resting_features(identity)
    centers = []
    for pose in poses:
        state = scale_shifts_for_zoom(FaceState(**{name: pose[name] for name in POSE_FIELDS}), zoom)
        centers.append(camera.project(posture_from_state(state).transform_points(resting))[:, :2])
    return np.array(centers, dtype=np.float32)


def _decode(paths: list[Path], folder: Path) -> None:
    truths = [json.loads((path.parent / "truth.json").read_text(encoding="utf-8")) for path in paths]
    counts = [len(truth["frames"]) for truth in truths]
    starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    size = media.probe(paths[0]).height
    pixels = np.lib.format.open_memmap(
        folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(starts[-1], size, size, 3)
    )
    features, units = [], []
    for path, truth, start in zip(paths, truths, starts[:-1], strict=True):
        count = 0
        for count, frame in enumerate(_iter_rgb_frames(path), start=1):
            pixels[start + count - 1] = frame
        assert count == len(truth["frames"]), f"{path} has {count} frames, its truth.json {len(truth['frames'])}"
        zoom = truth["closeness"]
        camera = Camera.portrait(size, size, zoom, tuple(truth.get("offset", (0.0, 0.0))))
        features.append(project_features(truth["identity"], truth["frames"], camera, zoom))
        units.append(np.full(count, camera.scale, np.float32))
    pixels.flush()
    np.save(folder / "features.npy", np.concatenate(features))
    np.save(folder / "head_units.npy", np.concatenate(units))
    (folder / "starts.json").write_text(json.dumps(starts), encoding="utf-8")


def _iter_rgb_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    return (frame for _, frame in media.iter_frames(path, fps=None))


@lru_cache(maxsize=4)
def _resting_features(identity: int) -> NDArray[np.float32]:
    head = Anatomy(make_identity(identity)).head
    face = head.features
    places = [(0.0, face.mouth_y), (-face.eye_x, face.eye_y), (face.eye_x, face.eye_y)]
    return np.array([[x, y, head.surface_depth(x, y)] for x, y in places], dtype=np.float32)
