"""Denoisers: they turn a model and its conditions into the function that a sampler calls.

A denoiser maps x_t (B, ...) and timesteps (B,) to the predicted x_0. Conditions are encoded once,
before the first step. With guidance, the network runs on a batch of 2B rows: the first half with
the condition, the second half without.
"""
