"""Paths of the checkout that tests run against."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: configs/, scripts/, data/, checkpoints/."""
SCRIPTS = ROOT / "scripts"
