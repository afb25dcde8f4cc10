"""The machine and the place that a command is called on: paths, environment, the package's own files."""
