"""The six steps of a run, and the beginning of a run."""
