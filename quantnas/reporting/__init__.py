"""Pictures and pages about runs and comparisons."""
