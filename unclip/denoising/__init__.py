"""Denoisers: from a model and its conditions to the function that a sampler calls.

A denoiser maps x_t (B, ...) and timesteps (B,) to the predicted x_0. Conditions are encoded once,
before the first step. With guidance, the network runs on a batch of two halves, the first with the
condition and the second without.
"""
