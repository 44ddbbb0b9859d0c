"""The embeddings of all pairs: encoding, selection and principal components."""
