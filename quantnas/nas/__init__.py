"""The differentiable search over operations and bit widths (QuantNAS, arXiv 2208.14839)."""
