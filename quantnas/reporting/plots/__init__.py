"""The plots, each drawn by one module with matplotlib."""
