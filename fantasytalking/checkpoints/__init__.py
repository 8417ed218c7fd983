"""Reads and writes checkpoints: adapters, LoRAs, and the weights that the authors released."""
