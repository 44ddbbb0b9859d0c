"""The command line.

`main.py` is the entry point. `pipeline.py`, `images.py`, `checkpoints.py` and `cluster.py` declare
the commands; they are light to import, so that help is instant. The work is imported when a
command is called.
"""
