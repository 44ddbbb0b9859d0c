"""The configuration: its sections, how a file is read, the packaged files and the reference."""
