"""The five commands: each module is one command line, `python -m bench.commands.NAME` or the script of its name."""
