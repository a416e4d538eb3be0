"""Photographs: files, bicubic reduction, pairs of low and high resolution, patches, the cache."""
