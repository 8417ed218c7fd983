"""The steps of the recipe that builds nano."""
