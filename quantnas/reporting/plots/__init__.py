"""Plots, each drawn by one module with matplotlib."""
