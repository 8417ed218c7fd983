"""Creates MediaPipe's face, pose and segmentation graphs without its log output, and returns their results as arrays.

The wheel of mediapipe 0.10.21 contains the models; nothing is downloaded. mediapipe is imported on first use.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

NUM_FACE_LANDMARKS = 478
"""Number of points of the face mesh with irises."""

NUM_BODY_JOINTS = 33
"""Number of joints of the pose model."""

_stderr_lock = threading.Lock()
_face_mesh_warned = False

# A serialized landmark is 17 bytes: list tag and length, then a tag and a little-endian float for each of x, y, z.
_LANDMARK_DTYPE = np.dtype(
    [("head", "V2"), ("tag_x", "V1"), ("x", "<f4"), ("tag_y", "V1"), ("y", "<f4"), ("tag_z", "V1"), ("z", "<f4")]
)


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Redirects the stderr of the process to /dev/null: the C++ log of 0.10.21 cannot be configured."""
    with _stderr_lock:
        sys.stderr.flush()
        kept = os.dup(2)
        devnull = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(devnull, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(devnull)


def _warm_up(solution: Any) -> Any:
    """Runs a new graph once on a black image, because it logs on its first input."""
    solution.process(np.zeros((64, 64, 3), np.uint8))
    return solution


def create_face_mesh(*, static: bool = False, max_faces: int = 1) -> Any:
    """Creates a FaceMesh graph with irises (478 points); with `static`, every image is searched independently."""
    with suppress_stderr():
        from mediapipe.python.solutions.face_mesh import FaceMesh

        return _warm_up(FaceMesh(static_image_mode=static, max_num_faces=max_faces, refine_landmarks=True))


def reset_graph(solution: Any) -> None:
    """Clears the tracked face of a graph; takes about 4 ms."""
    with suppress_stderr():
        solution.reset()
        _warm_up(solution)


def create_face_detection(*, full_range: bool, min_confidence: float = 0.5) -> Any:
    """Creates a FaceDetection graph: short range for faces that fill the image, full range for small ones."""
    with suppress_stderr():
        from mediapipe.python.solutions.face_detection import FaceDetection

        return _warm_up(FaceDetection(min_confidence, model_selection=int(full_range)))


def create_body_pose() -> Any:
    """Creates a Pose graph of complexity 1, the only one in the wheel, without smoothing over frames."""
    with suppress_stderr():
        from mediapipe.python.solutions.pose import Pose

        return _warm_up(Pose(model_complexity=1, smooth_landmarks=False))


def create_selfie_segmentation() -> Any:
    """Creates a SelfieSegmentation graph with the general (256x256) model."""
    with suppress_stderr():
        from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

        return _warm_up(SelfieSegmentation(model_selection=0))


def run_face_mesh(mesh: Any, image: np.ndarray) -> list[np.ndarray]:
    """Runs FaceMesh on a square (S, S, 3) uint8 RGB image (tilted faces are misplaced in other shapes).

    Returns:
        (478, 3) float32 per face: x and y as fractions of the side, z in units of the side.
    """
    global _face_mesh_warned
    assert image.shape[0] == image.shape[1]
    if _face_mesh_warned:
        results = mesh.process(image).multi_face_landmarks
    else:  # the first face of a process logs a warning
        with suppress_stderr():
            results = mesh.process(image).multi_face_landmarks
        _face_mesh_warned = bool(results)
    return [_landmarks_from_proto(result) for result in results or ()]


def _landmarks_from_proto(landmark_list: Any) -> np.ndarray:
    """Reads the serialized message, which is ten times faster than reading it point by point."""
    wire = landmark_list.SerializeToString()
    assert len(wire) == NUM_FACE_LANDMARKS * _LANDMARK_DTYPE.itemsize, (
        "the face mesh of this mediapipe has another layout"
    )
    points = np.frombuffer(wire, _LANDMARK_DTYPE)
    return np.stack([points["x"], points["y"], points["z"]], axis=-1)
