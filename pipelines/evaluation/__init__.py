"""What a trained cascade makes of captions, and how good it is."""
