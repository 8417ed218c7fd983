"""The feature networks of metrics, written to take their authors' weights as they are."""
