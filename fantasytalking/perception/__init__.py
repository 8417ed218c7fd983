"""Seeing the person in a video: face, lips, body, silhouette and how strongly they move. MediaPipe lives only here."""
