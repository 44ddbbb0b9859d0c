"""The memory of a training on each device, by arithmetic from the cost of one microbatch.

Weights, gradients and averaged weights are float32, and Adam keeps two numbers for each: 20 bytes
for each trained parameter, which sharding divides by the number of workers in a shard group. What
sharding adds are the blocks that are whole for a while. DDP holds gradients twice in its first two
steps, 24 bytes in all: beside its buckets before the first exchange of gradients, and then in old
buckets beside new ones, which it sorts by the order in which gradients arrive.
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
    activations: int
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
    copies_of_gradients = 2 if workers > 1 and shards == 1 else 1
    return Memory(
        weights=(FLOAT32 * step.parameters) // shards + step.buffers,
        gradients=(copies_of_gradients * FLOAT32 * step.trained) // shards,
        optimizer=(ADAM * step.trained) // shards,
        ema=(FLOAT32 * step.trained) // shards,
        copies=step.casts,
        gathered=step.gathered,
        activations=step.activations,
        batches=BATCHES * batch_bytes,
    )
