"""The command line: parse options, call the library, print. Nothing is computed here."""
