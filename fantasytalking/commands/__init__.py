"""One module per command of the command line: each parses its arguments and calls the room that does the work."""
