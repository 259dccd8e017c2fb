"""The machine: console, devices, processes, files, run folders, provenance."""
