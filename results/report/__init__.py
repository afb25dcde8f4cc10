"""The report: all results as one HTML file."""
