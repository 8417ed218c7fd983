"""Finds people in images and videos: faces, lips, bodies, silhouettes and motion. Only this room uses MediaPipe."""
