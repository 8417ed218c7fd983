"""State of a person in one frame: expression, gaze, and the pose of head and shoulders."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FaceState:
    """State of a person in one frame.

    `mouth_open` in [0, 1] is the gap between the inner lips relative to its largest value, `mouth_width` in [-1, 1]
    from rounded to spread, `blink` in [0, 1] from open to closed, `brow` and `gaze_*` in [-1, 1] (raised, right of the
    image, up). Angles are in radians: `yaw` turns the face to the right of the image, `pitch` down, and `roll` tilts
    its top to the right of the image. `x` and `y` (right, down) are the head's shift in image heights. All other values
    are in [0, 1] or [-1, 1] and zero at rest.
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
