"""Run folders: their settings, photographs, networks, saved states; bundled models."""
