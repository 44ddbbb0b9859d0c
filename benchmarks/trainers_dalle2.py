"""dalle2-pytorch's trainers with its own loaders, as its training scripts use them."""

import tempfile
from pathlib import Path

from clip import tokenize
from dalle2_pytorch import Decoder, DiffusionPrior
from dalle2_pytorch.dataloaders.decoder_loader import create_image_embedding_dataloader
from dalle2_pytorch.dataloaders.prior_loader import get_reader, make_splits
from dalle2_pytorch.trainer import DecoderTrainer, DiffusionPriorTrainer
from torchvision.transforms import ToTensor

from benchmarks import with_dalle2
from benchmarks.contest import random_inputs
from benchmarks.sizes import STEPS
from benchmarks.training_rows import Case, TextTower, Tick


def prior(case: Case, tick: Tick) -> int:
    """`DiffusionPriorTrainer`, reading embeddings and captions by embedding-reader."""
    network = with_dalle2.prior(case.sizes, random_inputs(case.sizes))
    trainer = DiffusionPriorTrainer(
        DiffusionPrior(
            network.model,
            image_embed_dim=case.sizes.embed_dim,
            timesteps=STEPS,
            text_cond_drop_prob=0.1,
        ),
        lr=1e-4,
        max_grad_norm=1.0,
    )
    folder, text = case.folder / "prior", TextTower(case)
    reader = get_reader(True, str(folder / "embeds"), str(folder / "metadata"))
    # The splits end with the training: embedding-reader hangs when it is left before its end.
    rows = case.steps * case.sizes.batch
    total = rows + 4  # two rows each for the splits that are not read
    splits = (rows + 0.5) / total, 2.5 / total
    loader, _, _ = make_splits(True, case.sizes.batch, total, *splits, reader)
    trainer.train()
    for step, (image_embeds, tokens) in enumerate(loader):
        tokens = tokens[:, : case.sizes.text_tokens].long()
        _, hidden = text(tokens)
        tick()
        trainer(image_embed=image_embeds, text_embed=hidden.mean(dim=1), text_encodings=hidden)
        trainer.update()
        if step + 1 == case.save_at:
            _save(trainer, case)
    return network.parameters()


def decoder(case: Case, tick: Tick) -> int:
    """`DecoderTrainer`, reading tars by webdataset in one process beside it."""
    network = with_dalle2.decoder(case.sizes, random_inputs(case.sizes))
    trainer = DecoderTrainer(
        Decoder(network.model, image_size=case.sizes.image_size, timesteps=STEPS),
        lr=1e-4,
        max_grad_norm=1.0,
    )
    text = TextTower(case)
    loader = create_image_embedding_dataloader(
        [str(tar) for tar in sorted((case.folder / "tars").iterdir())],
        num_workers=1,  # it accepts no 0
        batch_size=case.sizes.batch,
        img_embeddings_url=str(case.folder / "embeds"),
        index_width=4,
        img_preproc=ToTensor(),
        extra_keys=["txt"],
    )
    trainer.train()
    for step, (pixels, embeds, captions) in zip(range(case.steps), loader, strict=False):
        tokens = tokenize(captions, truncate=True)[:, : case.sizes.text_tokens].long()
        _, hidden = text(tokens)
        tick()
        trainer(pixels, image_embed=embeds["img"], text_encodings=hidden, unet_number=1)
        trainer.update(unet_number=1)
        if step + 1 == case.save_at:
            _save(trainer, case)
    return network.parameters()


def _save(trainer: DiffusionPriorTrainer | DecoderTrainer, case: Case) -> None:
    with tempfile.TemporaryDirectory(dir=case.folder) as scratch:
        trainer.save(str(Path(scratch) / "checkpoint.pth"))
