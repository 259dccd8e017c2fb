"""The command line: parser, flags, one-line errors."""
