"""A plain training loop with diffusers' models, as in its example scripts, for `trainers`."""

# B batch, L tokens, E width of CLIP's embeddings, S image size

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from open_clip import SimpleTokenizer
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import with_diffusers
from benchmarks.contest import Contestant, Inputs, random_inputs
from benchmarks.sizes import STEPS
from benchmarks.training_rows import EMBEDS, Case, TextTower, Tick

Prepare = Callable[[dict[str, Any]], Tensor]  # sets the inputs from a batch; returns the target


class Pictures(Dataset[dict[str, Any]]):
    """Image files with captions and embeddings; images are decoded when a row is taken."""

    def __init__(self, case: Case) -> None:
        sizes = case.sizes
        self.images = sorted((case.folder / "pictures").iterdir())
        self.captions = json.loads((case.folder / "captions.json").read_text())
        self.embeds = {name: np.load(case.folder / f"{name}.npy", "r") for name in EMBEDS}
        self.tokenize = SimpleTokenizer(context_length=sizes.text_tokens)
        self.pixels = case.model != "prior"
        crops = case.model == "upsampler"
        self.transform = transforms.Compose(
            [
                transforms.Resize(sizes.large_size if crops else sizes.image_size),
                (transforms.RandomCrop if crops else transforms.CenterCrop)(sizes.image_size),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        found = {name: np.array(embeds[row]) for name, embeds in self.embeds.items()}
        found["tokens"] = self.tokenize(self.captions[row])[0]
        if self.pixels:
            with Image.open(self.images[row]) as image:
                found["pixels"] = self.transform(image.convert("RGB"))
        return found


def prior(case: Case, tick: Tick) -> int:
    """Train the prior's transformer to predict embeddings."""
    inputs, schedule, text = _inputs(case), _schedule(), TextTower(case)

    def prepare(batch: dict[str, Any]) -> Tensor:
        target: Tensor = batch["image_embeds"] * case.sizes.embed_dim**0.5
        _noise(inputs, inputs.image_embeds, target, schedule)
        inputs.text_embeds.copy_(batch["text_embeds"])
        _encode(inputs, batch["tokens"], text)
        return target

    return _train(case, tick, with_diffusers.prior(case.sizes, inputs), prepare)


def decoder(case: Case, tick: Tick) -> int:
    """Train the U-Net and the text projection to predict noise."""
    inputs, schedule, text = _inputs(case), _schedule(), TextTower(case)

    def prepare(batch: dict[str, Any]) -> Tensor:
        target = _noise(inputs, inputs.pixels, batch["pixels"], schedule)
        inputs.image_embeds.copy_(batch["image_embeds"])
        inputs.text_embeds.copy_(batch["text_embeds"])
        _encode(inputs, batch["tokens"], text)
        return target

    return _train(case, tick, with_diffusers.decoder(case.sizes, inputs), prepare)


def upsampler(case: Case, tick: Tick) -> int:
    """Train the upsampler's U-Net to predict noise, from crops of half the resolution."""
    inputs, schedule = _inputs(case), _schedule()
    blur = transforms.GaussianBlur(3, 0.6)

    def prepare(batch: dict[str, Any]) -> Tensor:
        small = F.avg_pool2d(batch["pixels"], 2)
        blurred = blur(small) if torch.rand(()) < 0.5 else small
        inputs.low_res.copy_(F.interpolate(blurred, scale_factor=2.0, mode="bilinear"))
        return _noise(inputs, inputs.pixels, batch["pixels"], schedule)

    return _train(case, tick, with_diffusers.upsampler(case.sizes, inputs), prepare)


def _train(case: Case, tick: Tick, contestant: Contestant, prepare: Prepare) -> int:
    """The loop; returns the number of parameters."""
    model, parameters = contestant.model.train(), list(contestant.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)
    ema = EMAModel(parameters, decay=0.9999)
    batches = _batches(Pictures(case), case.sizes.batch)
    for step in range(case.steps):
        target = prepare(next(batches))
        tick()
        predicted = contestant.predict()[:, : target.shape[1]]  # without a variance
        loss = F.mse_loss(predicted, target)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(parameters)
        loss.item()  # the examples show it at each step
        if step + 1 == case.save_at:
            parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "ema": ema}
            with tempfile.TemporaryDirectory(dir=case.folder) as scratch:
                states = {name: part.state_dict() for name, part in parts.items()}
                torch.save(states, Path(scratch) / "checkpoint.pt")
    return contestant.parameters()


def _batches(rows: Pictures, batch: int) -> Iterator[dict[str, Any]]:
    """Epochs without end, loaded in the loop's process, which is the examples' default."""
    loader = DataLoader(rows, batch_size=batch, shuffle=True, drop_last=True, num_workers=0)
    while True:
        yield from loader


def _inputs(case: Case) -> Inputs:
    """Tensors that each batch overwrites."""
    return random_inputs(case.sizes)


def _schedule() -> Any:
    return DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2")


def _noise(inputs: Inputs, noised: Tensor, clean: Tensor, schedule: Any) -> Tensor:
    """Draw timesteps and noise, and set `noised`; returns the noise."""
    noise = torch.randn_like(clean)
    inputs.timesteps.random_(STEPS)
    noised.copy_(schedule.add_noise(clean, noise, inputs.timesteps))
    return noise


def _encode(inputs: Inputs, tokens: Tensor, text: TextTower) -> None:
    """Set the captions."""
    ids, hidden = text(tokens)
    inputs.tokens.copy_(ids)
    inputs.text_hidden.copy_(hidden)
