"""Macro-architectures, the network of a decided architecture, and its cost in BitOps."""
