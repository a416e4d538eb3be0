"""The training loop, its saved states, and processes that share it."""
