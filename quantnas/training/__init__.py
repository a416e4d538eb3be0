"""The training loop, its checkpoints, and the processes that share its batches."""
