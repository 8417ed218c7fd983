"""The portrait world: a licence-free synthetic corpus of talking people, drawn and voiced by this package alone."""
