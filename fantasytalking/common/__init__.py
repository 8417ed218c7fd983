"""Shared foundations: configuration, errors, atomic files, downloads, safetensors and resumable tasks."""
