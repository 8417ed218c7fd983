"""From files to a video file: jobs, command line, records, weights on disk and several processes."""
