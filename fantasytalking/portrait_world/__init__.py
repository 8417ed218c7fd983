"""The portrait world: a synthetic corpus of speakers, free of third-party licenses, rendered by this package alone."""
