"""unCLIP (Ramesh et al. 2022): the models and their maths, usable without the pipeline."""
