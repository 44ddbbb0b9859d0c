"""The configuration: its sections, its loading, the packaged files and the reference."""
