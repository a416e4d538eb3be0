"""One module for every command."""
