"""The command line: parser, config file, help, flags that commands share, one-line errors."""
