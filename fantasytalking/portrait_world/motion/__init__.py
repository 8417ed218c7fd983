"""What the face and head do over time."""
