"""Measuring: PSNR and SSIM, damage of layers, latency."""
