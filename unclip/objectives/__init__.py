"""Parts of the training objectives; each model kind puts its own loss together in `unclip.kinds`.

A loss maps a model, a batch and a generator to a scalar. All randomness comes from the generator.
"""
