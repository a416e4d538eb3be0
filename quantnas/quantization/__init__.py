"""Quantization after training: saliency, bit allocation, least squares, retraining (arXiv 2504.13932)."""
