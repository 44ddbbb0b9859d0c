"""The speed-up of the autoregressive prior's sampling by its key-value cache.

`python -m benchmarks.ar_cache` samples the same codes with and without the cache in one process,
and prints a table row for benchmarks/README.md.
"""

import datetime
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import machine
from unclip.kinds.autoregressive_prior import sample_codes
from unclip.models import ARPrior
from unclip.presets import paper_ar_prior

BATCH = 2
CAPTION = 32  # tokens that are not padding


def prior() -> ARPrior:
    """A prior with the paper's 319 codes of 1,024 buckets, but a transformer for a laptop."""
    paper = paper_ar_prior()
    text = replace(paper.text_encoder, width=128, heads=2)
    config = replace(paper, text_encoder=text, width=128, depth=4, heads=2)
    return ARPrior(config).eval()


def measure(model: ARPrior, device: torch.device) -> tuple[float, float]:
    """Seconds with the cache and without; raises RuntimeError if the codes differ."""
    tokens = torch.zeros(BATCH, model.config.text_encoder.context_length, dtype=torch.int64)
    tokens[:, :CAPTION] = 7
    text_embeds = F.normalize(torch.ones(BATCH, model.config.embed_dim), dim=-1)

    def sample(cached: bool) -> Tensor:
        return sample_codes(
            model,
            tokens.to(device),
            text_embeds.to(device),
            guidance_scale=2.0,
            temperature=1.0,
            generator=torch.Generator().manual_seed(0),
            cached=cached,
        )

    # On a CPU, CPU time excludes other work on the machine.
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def timed(cached: bool) -> tuple[float, Tensor]:
        start = clock()
        codes = sample(cached).cpu()  # waits for the device
        return clock() - start, codes

    timed(True)  # warm-up
    with_cache, codes = timed(True)
    without, same = timed(False)
    if not torch.equal(codes, same):
        raise RuntimeError("the codes sampled with and without the cache differ")
    return with_cache, without


def main(show: Callable[[str], object] = sys.stdout.write) -> None:
    """Print the table row."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    model = prior().to(device)
    with_cache, without = measure(model, device)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    show(
        f"| {datetime.datetime.now(datetime.UTC).date()} | {machine(device)} | "
        f"{size:.0f}M parameters, {model.config.dimensions} codes, {BATCH} captions with guidance "
        f"| {with_cache:.2f} s | {without:.2f} s | {without / with_cache:.1f} |\n"
    )


if __name__ == "__main__":
    main()
