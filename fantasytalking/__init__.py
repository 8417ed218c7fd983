"""FantasyTalking (arXiv 2504.04842): talking portraits from one picture and one recording of speech."""

__version__ = "0.1.0"
