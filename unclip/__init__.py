"""unCLIP (Ramesh et al. 2022): models, training and sampling, usable without `pipelines`."""
