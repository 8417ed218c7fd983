"""MediaPipe's face, pose and silhouette models, made without its chatter, and their results as arrays.

The models travel inside the mediapipe 0.10.21 wheel; nothing is downloaded. Import of mediapipe happens on first use.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

FACE_LANDMARKS = 478
"""Points of the face mesh with irises."""

BODY_JOINTS = 33
"""Joints of the pose model."""

_quiet_lock = threading.Lock()
_mesh_has_spoken = False

# A serialised landmark is 17 bytes: list tag and length, then a tag and a little-endian float for each of x, y, z.
_WIRE = np.dtype(
    [("head", "V2"), ("tag_x", "V1"), ("x", "<f4"), ("tag_y", "V1"), ("y", "<f4"), ("tag_z", "V1"), ("z", "<f4")]
)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Sends the process's stderr to nowhere for a moment: the C++ log of 0.10.21 obeys no setting and no variable."""
    with _quiet_lock:
        sys.stderr.flush()
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _started(solution: Any) -> Any:
    """Runs a new graph once on a black picture: it logs on its first input."""
    solution.process(np.zeros((64, 64, 3), np.uint8))
    return solution


def face_mesh(*, static: bool = False, max_faces: int = 1) -> Any:
    """A FaceMesh graph with irises (478 points); with `static` every picture is searched afresh."""
    with quiet_stderr():
        from mediapipe.python.solutions.face_mesh import FaceMesh

        return _started(FaceMesh(static_image_mode=static, max_num_faces=max_faces, refine_landmarks=True))


def restart(solution: Any) -> None:
    """Makes a tracking graph forget where it saw the face; about 4 ms."""
    with quiet_stderr():
        solution.reset()
        _started(solution)


def face_detection(*, full_range: bool, min_confidence: float = 0.5) -> Any:
    """A FaceDetection graph: short range for faces that fill the picture, full range for small ones."""
    with quiet_stderr():
        from mediapipe.python.solutions.face_detection import FaceDetection

        return _started(FaceDetection(min_confidence, model_selection=int(full_range)))


def body_pose() -> Any:
    """A Pose graph of complexity 1, the only one in the wheel, without its smoothing over frames."""
    with quiet_stderr():
        from mediapipe.python.solutions.pose import Pose

        return _started(Pose(model_complexity=1, smooth_landmarks=False))


def selfie_segmentation() -> Any:
    """A SelfieSegmentation graph with the general (256x256) model."""
    with quiet_stderr():
        from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

        return _started(SelfieSegmentation(model_selection=0))


def mesh_faces(mesh: Any, picture: np.ndarray) -> list[np.ndarray]:
    """Runs FaceMesh on a square (S, S, 3) uint8 RGB picture (it misplaces tilted faces in others).

    Returns:
        for every face (478, 3) float32: x and y as shares of the side, z in units of the side.
    """
    global _mesh_has_spoken
    assert picture.shape[0] == picture.shape[1]
    if _mesh_has_spoken:
        results = mesh.process(picture).multi_face_landmarks
    else:  # a warning comes with the first face of a process
        with quiet_stderr():
            results = mesh.process(picture).multi_face_landmarks
        _mesh_has_spoken = bool(results)
    return [_points(result) for result in results or ()]


def _points(landmark_list: Any) -> np.ndarray:
    """Reads a message in its serialised form: ten times faster than point by point."""
    wire = landmark_list.SerializeToString()
    assert len(wire) == FACE_LANDMARKS * _WIRE.itemsize, "the face mesh of this mediapipe has another layout"
    points = np.frombuffer(wire, _WIRE)
    return np.stack([points["x"], points["y"], points["z"]], axis=-1)
