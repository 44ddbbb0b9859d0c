"""Times a training and a sampling step of each model against diffusers and dalle2-pytorch.

`python -m benchmarks.steps` prints the tables of benchmarks/README.md. All contestants for a model
take turns in one process on one thread. They have random weights, the same inputs and about the
same number of parameters. A ratio is their time over ours in a round; the table shows the median
over the rounds. Ours use fused AdamW, as the project's training does. Theirs use torch's default
AdamW, as their own training code does. `--fused` uses fused AdamW for all.
"""

import argparse
import datetime
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch

from benchmarks import with_unclip
from benchmarks.contest import Contestant, Inputs, random_inputs
from benchmarks.sizes import CPU, TINY, Sizes
from benchmarks.timing import Run, Seconds, machine, median, race, ratio

Make = Callable[[Sizes, Inputs], Contestant]

OURS: dict[str, list[Make]] = {
    "prior": [with_unclip.prior, with_unclip.karlo_prior],
    "decoder": [with_unclip.decoder, with_unclip.karlo_decoder],
    "upsampler": [with_unclip.upsampler],
}
THEIRS = {"diffusers": "benchmarks.with_diffusers", "dalle2-pytorch": "benchmarks.with_dalle2"}


def training_run(contestant: Contestant, *, bf16: bool, fused: bool) -> Run:
    """A training step: forward, backward and update."""
    trained = [p for p in contestant.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=fused)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            predicted = contestant.predict()
        torch.autograd.backward(predicted.float().square().mean())
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampling_run(contestant: Contestant, *, bf16: bool) -> Run:
    """A sampling step: one call of the denoiser, with guidance if the model has it."""
    contestant.model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        denoise = contestant.sampler()

    def step() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            denoise()

    return step


def rows(
    name: str, contestants: Sequence[Contestant], runs: Sequence[Run], *, kind: str, rounds: int
) -> list[str]:
    """Table rows, one per contestant; theirs have the ratios to each of ours, which come first."""
    times = race(runs, rounds=rounds)
    ours = len(OURS[name])
    lines = []
    for contestant, measured in zip(contestants, times, strict=True):
        seconds = median(measured)
        ratios = [_ratio_cell(ratio(measured, own)) for own in times[:ours]]
        shown = ["", ""] if contestant in contestants[:ours] else [*ratios, ""]
        cells = [
            f"{name}, {kind}",
            contestant.library,
            f"{contestant.parameters() / 1e6:.1f}M",
            f"{seconds.cpu:.3f} s",
            f"{seconds.wall:.3f} s",
            *shown[:2],
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return lines


def _ratio_cell(times_faster: Seconds) -> str:
    return f"**{times_faster.cpu:.2f}** ({times_faster.wall:.2f})"


def contestants_of(
    name: str, rivals: Sequence[str], inputs: Inputs, sizes: Sizes
) -> list[Contestant]:
    """Ours, then theirs."""
    makers = [*OURS[name], *(getattr(importlib.import_module(THEIRS[r]), name) for r in rivals)]
    return [make(sizes, inputs) for make in makers]


def profile(contestant: Contestant, run: Run) -> str:
    """The operators of a training step with the longest self time, by torch's profiler."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=10)
    return f"{contestant.library}, {contestant.parameters() / 1e6:.1f}M parameters\n{table}\n"


def head(rivals: Sequence[str], *, bf16: bool) -> str:
    """Date, machine and versions, and the header of the table."""
    packages = [f"{name} {version(name)}" for name in ("torch", *rivals)]
    return (
        f"{datetime.datetime.now(datetime.UTC).date()}, {machine(torch.device('cpu'))}, "
        f"{', '.join(packages)}, {'bf16 autocast' if bf16 else 'fp32'}\n\n"
        "| step | library | parameters | CPU time | wall clock "
        "| over ours | over Karlo's layout |\n"
        "|---|---|---|---|---|---|---|\n"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--against", nargs="*", choices=list(THEIRS), default=list(THEIRS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--caption-tokens", type=int, help="not padding (default: all)")
    parser.add_argument("--fused", action="store_true", help="fused AdamW for all contestants")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument(
        "--profile", action="store_true", help="profile a training step instead of timing"
    )
    parser.add_argument("--tiny", action="store_true", help="only check that everything runs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = parse(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = TINY if args.tiny else CPU
    sys.stdout.write(head(args.against, bf16=args.bf16))
    for name in args.models:
        inputs = random_inputs(sizes, caption_tokens=args.caption_tokens)
        entered = contestants_of(name, args.against, inputs, sizes)
        fused = [args.fused or i < len(OURS[name]) for i in range(len(entered))]
        train = [
            training_run(c, bf16=args.bf16, fused=f) for c, f in zip(entered, fused, strict=True)
        ]
        if args.profile:
            sys.stdout.writelines(profile(c, run) for c, run in zip(entered, train, strict=True))
            continue
        lines = rows(name, entered, train, kind="training", rounds=args.rounds)
        sample = [sampling_run(c, bf16=args.bf16) for c in entered]
        lines += rows(name, entered, sample, kind="sampling", rounds=args.rounds)
        sys.stdout.writelines(lines)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
