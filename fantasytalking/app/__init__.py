"""The page: a portrait and speech become a talking video in a browser (scripts/app.py)."""
