"""Plain data without torch: settings, search spaces, genotypes; how they are read and checked."""
