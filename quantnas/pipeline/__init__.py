"""The six steps of a run, and how a run begins."""
