"""Results, statistics and reports: tables, plots, frame sheets, HTML."""
