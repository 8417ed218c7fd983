"""Hub ids, and where the files of one are on this machine."""

import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CHECKPOINTS = Path("checkpoints")
"""Where the commands that messages and README tell put what is downloaded."""


def local_folder(hub_id: str) -> Path:
    """Where the files of a hub id are put: checkpoints/NAME."""
    return CHECKPOINTS / hub_id.rsplit("/", 1)[-1]


def at_hand(place: str | Path) -> str | Path:
    """The local folder of a hub id where there is one; else `place` itself."""
    if Path(place).exists() or not HUB_ID.fullmatch(str(place)):
        return place
    local = local_folder(str(place))
    return local if local.is_dir() else place
