"""The memory of a training on each device, by arithmetic from the cost of one microbatch.

Weights, gradients and averaged weights are float32, and Adam keeps two numbers for each: 20 bytes
for each trained parameter, which sharding divides by the number of workers in a shard group. What
sharding adds are the blocks that are whole for a while. Before its second step, DDP moves gradients
into new buckets, sorted by the order in which they arrived. Old and new ones make 24 bytes, which
is the peak if activations take less than 4.
"""

from dataclasses import dataclass, fields

from unclip.training.meta_step import StepCost

FLOAT32 = 4  # bytes
ADAM = 8  # two float32 numbers
BATCHES = 2  # microbatches on the device: in use, and copied ahead


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    copies: int  # of the weights, in the precision of the computation
    gathered: int  # blocks of other workers' shards, and gradients on their way
    activations: int  # or DDP's new buckets, if these are larger
    batches: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate_memory(step: StepCost, *, workers: int, shards: int, batch_bytes: int) -> Memory:
    """The peak on each device.

    step: of one microbatch, sharded if there is more than one shard. workers: all of the training.
    shards: those that share one copy of the weights. batch_bytes: of one microbatch's inputs.
    """
    new_buckets = FLOAT32 * step.trained if workers > 1 and shards == 1 else 0
    return Memory(
        weights=(FLOAT32 * step.parameters) // shards + step.buffers,
        gradients=(FLOAT32 * step.trained) // shards,
        optimizer=(ADAM * step.trained) // shards,
        ema=(FLOAT32 * step.trained) // shards,
        copies=step.casts,
        gathered=step.gathered,
        activations=max(step.activations, new_buckets - step.casts),
        batches=BATCHES * batch_bytes,
    )
