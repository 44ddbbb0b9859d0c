"""Histograms of oriented gradients and mean colours: features without weights."""

# B images, S side, C cells per side, O orientations

import math

import torch
from einops import rearrange, reduce
from torch import Tensor

SIDE = 64  # pixels
CELL = 8  # pixels
ORIENTATIONS = 9  # bins of unsigned angles
EPS = 0.01


def gradients(pixels: Tensor) -> Tensor:
    """(B, 3, 64, 64) in [0, 1] to (B, 768): 9 orientations and 3 colours in 8 x 8 cells.

    The histograms follow Dalal and Triggs 2005: gradients of grey levels, votes by magnitude that
    the two nearest orientations share. Each cell is divided by the norm around it, over 3 x 3
    cells, where the paper takes overlapping blocks of 2 x 2.
    """
    grey = pixels.mean(1)  # (B, S, S)
    dy, dx = torch.gradient(grey, dim=(1, 2))
    magnitude = torch.hypot(dx, dy)
    angle = torch.atan2(dy, dx).remainder(math.pi) / math.pi * ORIENTATIONS  # in [0, O)
    lower = angle.floor()
    share = angle - lower
    votes = torch.zeros(*grey.shape, ORIENTATIONS, device=pixels.device)  # (B, S, S, O)
    first = lower.long().remainder(ORIENTATIONS)[..., None]
    second = (first + 1).remainder(ORIENTATIONS)
    votes.scatter_add_(-1, first, (magnitude * (1 - share))[..., None])
    votes.scatter_add_(-1, second, (magnitude * share)[..., None])
    cells = reduce(votes, "b (y h) (x w) o -> b o y x", "sum", h=CELL, w=CELL)  # (B, O, C, C)
    energy = cells.square().sum(1, keepdim=True)  # (B, 1, C, C)
    around = torch.nn.functional.avg_pool2d(energy, 3, stride=1, padding=1, count_include_pad=False)
    histograms = cells / (around + EPS).sqrt()
    colours = reduce(pixels, "b c (y h) (x w) -> b c y x", "mean", h=CELL, w=CELL)
    return rearrange(torch.cat([histograms, colours], dim=1), "b c y x -> b (c y x)")
