"""Work on the embeddings of all pairs: the CLIP's encoder, the selection, principal components."""
