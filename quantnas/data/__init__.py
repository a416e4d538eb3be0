"""Photographs: image files, bicubic resizing, pairs of both resolutions, patches and a cache."""
