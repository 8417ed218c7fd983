"""Steps of the nano build."""
