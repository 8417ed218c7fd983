"""Locates the files that ship with the package: configurations, sentences, the demonstration's portrait and speech."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "resources"

IS_INSTALLED = _INSTALLED.is_dir()
"""Whether the package was installed from a wheel; False in a clone and for an editable install of one."""
ROOT = _INSTALLED if IS_INSTALLED else _PACKAGE.parent
"""The folder that holds configs/ and data/: the clone, or resources/ inside an installed package."""
SHIPPED = ("configs", "data", "checkpoints")
"""Folders whose files are looked up beside the package, too. A wheel has no checkpoints."""


def resource_path(path: str | Path) -> Path:
    """Resolves the path of a file that may be one of the package's own.

    A path that exists, relative to the working directory, is returned as it is. Otherwise configs/..., data/... and
    checkpoints/... are looked up among the files that ship with the package, so that a command such as
    `fantasytalking train --config configs/nano/stage1.yaml` works in any folder, with nano's weights where the package
    is a clone. A path that is in neither place is returned unchanged. Results (outputs/...) are always relative to the
    working directory.
    """
    path = Path(path)
    if path.exists() or path.parts[:1] not in {(name,) for name in SHIPPED}:
        return path
    shipped = ROOT / path
    return shipped if ".." not in path.parts and shipped.exists() else path
