"""Settings, search spaces and genotypes as plain data without torch, read and checked here."""
