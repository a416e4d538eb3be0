"""Macro-architectures, the decided network and its cost in BitOps."""
