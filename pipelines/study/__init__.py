"""Compare ways to draw images: sources of the image embedding, guidance scales, baselines."""
