"""Plain data without torch: settings, search spaces, genotypes, and how they are read and checked."""
