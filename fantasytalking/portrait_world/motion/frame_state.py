"""What someone does in one frame: face, gaze, and the pose of head and shoulders."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FaceState:
    """One frame of a person.

    `mouth_open` in [0, 1] is the gap between the inner lips over its largest value, `mouth_width` in [-1, 1] from
    rounded to spread, `blink` in [0, 1] from open to shut, `brow` and `gaze_*` in [-1, 1] (raised, picture's right,
    up). Angles are radians: `yaw` turns the face to the picture's right, `pitch` nods it down, `roll` tilts its top to
    the picture's right. `x` and `y` (right, down) are the head's shift in picture heights. The rest is in [0, 1] or
    [-1, 1] and zero at rest.
    """

    mouth_open: float = 0.0
    mouth_width: float = 0.0
    lip_press: float = 0.0
    lip_tuck: float = 0.0
    tongue: float = 0.0
    smile: float = 0.0
    blink: float = 0.0
    squint: float = 0.0
    brow: float = 0.0
    frown: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    shoulder_x: float = 0.0
    shoulder_y: float = 0.0
    shoulder_roll: float = 0.0


NEUTRAL = FaceState()
