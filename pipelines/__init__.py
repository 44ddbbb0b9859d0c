"""The pipeline around `unclip`: from image URLs and captions to evaluated models, on Ray."""
