"""What a run needs, from its configuration alone: memory, FLOPs, hours, storage."""
