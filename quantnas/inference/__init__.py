"""Running one network: upscalers, tiles, whole files."""
