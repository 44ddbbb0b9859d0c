"""With one generator for each row, an image does not depend on the other rows of its batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.unclip.toys import (
    AR_PRIOR,
    ECLIPSE_PRIOR,
    LINEAR_PRIOR,
    PRIOR,
    make_batch,
    perturb,
    sampling_with,
    seeded,
    toy_cascade,
)
from unclip.config import Config, ConfigError
from unclip.generation import Cascade
from unclip.kinds import build
from unclip.manipulate import decode, encode, importance_of_the_prior, inpaint
from unclip.samplers import randn, randn_like

CPU = torch.device("cpu")
NOISY = sampling_with(decoder={"sampler": "ddpm_fixed_small"}, eta=1.0)


def own(rows: list[int]) -> list[torch.Generator]:
    return [seeded(100 + row) for row in rows]


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return toy_cascade(NOISY)


def test_the_first_draws_of_each_row_come_from_its_own_generator() -> None:
    drawn = randn((6, 4), generator=own([0, 1, 2]), device=CPU)
    for row in range(3):
        expected = torch.randn((2, 4), generator=seeded(100 + row))
        assert torch.equal(drawn[2 * row : 2 * row + 2], expected)


def test_one_generator_in_a_list_draws_as_it_does_alone() -> None:
    x = torch.zeros(4, 3, dtype=torch.float64)
    assert torch.equal(randn_like(x, [seeded()]), randn_like(x, seeded()))


@pytest.mark.parametrize("count", [0, 4])
def test_rows_that_the_generators_cannot_share_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"{count} generators cannot share 6 rows"):
        randn((6, 4), generator=own(list(range(count))), device=CPU)


@pytest.mark.parametrize("prior", [PRIOR, AR_PRIOR, LINEAR_PRIOR, ECLIPSE_PRIOR])
def test_an_image_does_not_depend_on_its_neighbours_bit_for_bit(
    cascade: Cascade, prior: Config
) -> None:
    cascade = replace(cascade, prior=perturb(build(prior)))
    batch = make_batch(8)

    def second(rows: list[int]) -> list[Tensor]:
        """Row 1 in a batch with others, which have other captions and other noise."""
        out = cascade.generate(
            batch["tokens"][rows], batch["text_embeds"][rows], generator=own(rows)
        )
        return [out.image_embeds[1], *(pixels[1] for pixels in out.pixels)]

    for with_some, with_others in zip(second([0, 1, 2]), second([3, 1, 0]), strict=True):
        assert torch.equal(with_some, with_others)


def test_an_image_made_alone_is_the_one_made_in_a_batch(cascade: Cascade) -> None:
    batch = make_batch(8)
    together = cascade.generate(batch["tokens"], batch["text_embeds"], generator=own([0, 1, 2, 3]))
    alone = cascade.generate(batch["tokens"][2:3], batch["text_embeds"][2:3], generator=own([2]))
    for many, one in zip(together.pixels, alone.pixels, strict=True):
        torch.testing.assert_close(many[2:3], one, atol=1e-3, rtol=1e-3)


def test_one_generator_for_the_batch_ties_rows_to_each_other(cascade: Cascade) -> None:
    """So the tests above would notice generators that are not passed on."""
    batch = make_batch(8)
    images = [
        cascade.decode(batch["image_embeds"][rows], None, generator=seeded())[-1]
        for rows in ([0, 1, 2], [1, 2])
    ]
    assert not torch.allclose(*images, atol=1e-2)


def test_manipulation_draws_each_row_from_its_own_generator(cascade: Cascade) -> None:
    batch, pixels = make_batch(8), make_batch(32)["pixels"]
    latent = encode(cascade, batch["pixels"], batch["image_embeds"])
    mask = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    mask[..., :16] = True

    def make(rows: list[int]) -> list[Tensor]:
        chosen = replace(latent, image_embeds=latent.image_embeds[rows], noise=latent.noise[rows])
        probes = importance_of_the_prior(
            cascade, batch["tokens"][rows], batch["text_embeds"][rows], generator=own(rows)
        )
        return [
            decode(cascade, chosen, eta=1.0, generator=own(rows)),
            inpaint(
                cascade, pixels[rows], mask[rows], batch["image_embeds"][rows], generator=own(rows)
            ),
            *probes.values(),
        ]

    for with_some, with_others in zip(make([0, 1]), make([2, 1]), strict=True):
        assert torch.equal(with_some[1], with_others[1])
