"""Loads, saves and pushes a pipeline: its components, options, LoRAs and files."""
