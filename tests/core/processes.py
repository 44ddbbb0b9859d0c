"""Starts drivers as processes, watches them and kills what belongs to them."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def start(root: object, toy: str, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.core.driver", str(root), toy, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], object], timeout_s: float = 90) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "this never happened"
        time.sleep(0.05)


def child(parent: int, name: str) -> psutil.Process:
    """The process of this name that the parent started."""
    return next(p for p in psutil.Process(parent).children(recursive=True) if p.name() == name)


def is_one_paragraph(text: str) -> bool:
    lines = text.strip().splitlines()
    return len(lines) == 1 and lines[0].startswith("unclip: ")
