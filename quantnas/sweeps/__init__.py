"""Sweeps of many runs that share work, on the cores of a machine or on a Ray cluster."""
