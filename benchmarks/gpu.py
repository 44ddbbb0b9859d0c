"""Model FLOP utilisation (MFU) of training steps on one GPU, compared with diffusers.

`python -m benchmarks.gpu` prints a table. All models are compiled and run under bf16 autocast, with
the widths of the small and the paper presets but fewer layers. MFU is the FLOPs of forward and
backward, as torch counts them, divided by the duration of a whole step and the peak FLOP/s of the
device. `--device cpu --tiny --eager` only checks that everything runs.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import with_diffusers, with_unclip
from benchmarks.contest import Contestant, Inputs, random_inputs
from benchmarks.sizes import PAPER, SMALL, TINY, Sizes
from benchmarks.timing import machine

Make = Callable[[Sizes, Inputs], Contestant]

MAKERS: dict[str, list[Make]] = {
    "prior": [with_unclip.prior, with_unclip.karlo_prior, with_diffusers.prior],
    "decoder": [with_unclip.decoder, with_unclip.karlo_decoder, with_diffusers.decoder],
    "upsampler": [with_unclip.upsampler, with_diffusers.upsampler],
}
DENSE_BF16_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "L4": 121.0, "L40S": 362.0}
WARM_UP, STEPS = 5, 20


def peak_tflops(device: torch.device) -> float:
    """Peak bf16 TFLOP/s from the data sheet; for other devices, measured on a large matmul."""
    if device.type == "cuda":
        words = torch.cuda.get_device_name(device).replace("-", " ").split()
        known = [DENSE_BF16_TFLOPS[word] for word in words if word in DENSE_BF16_TFLOPS]
        if known:
            return known[0]
    size = 8192 if device.type == "cuda" else 1024
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / _seconds_per_call(lambda: factor @ factor, device) / 1e12


def utilisation(
    contestant: Contestant, device: torch.device, *, compiled: bool
) -> tuple[float, float]:
    """Seconds per training step, and TFLOP/s of its forward and backward passes."""
    predict = torch.compile(contestant.predict) if compiled else contestant.predict
    trained = [p for p in contestant.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def gradients(forward: Callable[[], Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            predicted = forward()
        torch.autograd.backward(predicted.float().square().mean())

    def step() -> None:
        gradients(predict)
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        gradients(contestant.predict)
    optimizer.zero_grad()
    seconds = _seconds_per_call(step, device)
    return seconds, counter.get_total_flops() / seconds / 1e12


def _seconds_per_call(run: Callable[[], object], device: torch.device) -> float:
    calls = STEPS if device.type == "cuda" else 3
    for _ in range(WARM_UP if device.type == "cuda" else 1):
        run()
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    _wait(device)
    return (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lines(sizes: dict[str, Sizes], device: torch.device, *, compiled: bool) -> Iterator[str]:
    """The lines of the table, one per model."""
    peak = peak_tflops(device)
    how = "compiled" if compiled else "eager"
    yield f"{datetime.datetime.now(datetime.UTC).date()}, {machine(device)}, "
    yield f"torch {torch.__version__}, bf16, {how}, peak {peak:.1f} TFLOP/s\n\n"
    yield "| model | width | library | parameters | step | TFLOP/s | utilisation |\n"
    yield "|---|---|---|---|---|---|---|\n"
    for width, chosen in sizes.items():
        for name, makers in MAKERS.items():
            for make in makers:
                torch.manual_seed(0)
                contestant = make(chosen, random_inputs(chosen))
                seconds, tflops = utilisation(contestant, device, compiled=compiled)
                yield (
                    f"| {name} | {width} | {contestant.library} "
                    f"| {contestant.parameters() / 1e6:.1f}M | {1000 * seconds:.1f} ms "
                    f"| {tflops:.2f} | {tflops / peak:.1%} |\n"
                )
                torch.compiler.reset()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--tiny", action="store_true", help="only check that everything runs")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; try `--device cpu --tiny --eager` to check the script")
    sizes = {"tiny": TINY} if args.tiny else {"small": SMALL, "paper": PAPER}
    device = torch.device(args.device)
    with device:
        for line in lines(sizes, device, compiled=not args.eager):
            sys.stdout.write(line)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
