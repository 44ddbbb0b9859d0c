"""Parts of the training objectives. Each model kind in `unclip.kinds` builds its loss from them.

A loss maps a model, a batch and a generator to a scalar. All randomness comes from the generator.
"""
