"""Checks of this machine: versions, resources, one small export of every form."""
