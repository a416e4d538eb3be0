"""Quantization after training: saliency, least squares, retraining (arXiv 2504.13932)."""
