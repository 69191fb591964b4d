from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction

import numpy as np
import pytest
import torch

from sparring.diffusion.randomness import StepRandom, derive_seed, generator


def test_rows_do_not_depend_on_who_asks():
    """Two processes with two micro-batches each draw what one process draws."""
    whole = StepRandom(seed=7, step=3, n_rows=8)
    for draw in (lambda r: r.normal("eps", (2, 2)), lambda r: r.uniform("bias")):
        parts = [draw(StepRandom(7, 3, 8, slice(i, i + 2))) for i in range(0, 8, 2)]
        assert torch.equal(torch.cat(parts), draw(whole))
    assert torch.equal(
        StepRandom(7, 3, 8, slice(4, 8)).permutation("rows"), whole.permutation("rows")
    )


def test_streams_are_independent_of_each_other():
    def draw(seed, step, name):
        return StepRandom(seed, step, 4).normal(name, (3,))

    first = draw(0, 0, "a")
    assert torch.equal(first, draw(0, 0, "a"))
    for other in (draw(1, 0, "a"), draw(0, 1, "a"), draw(0, 0, "b")):
        assert not torch.equal(first, other)


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "step", 5, "eps") == 5122396339105608380
    assert derive_seed("a", 1) != derive_seed("a1")
    assert derive_seed(1) != derive_seed("1")
    assert generator("cpu", 1, "x").initial_seed() == derive_seed(1, "x")


def test_distributions():
    rng = StepRandom(0, 0, 100_000)
    normal, uniform = rng.normal("n"), rng.uniform("u")
    assert abs(float(normal.mean())) < 0.015
    assert abs(float(normal.std()) - 1) < 0.01
    assert abs(float(uniform.mean()) - 0.5) < 0.005
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1


class Colour(str, Enum):  # noqa: UP042 - whose format is 'Colour.RED'
    RED = "red"


class Level(IntEnum):
    LOW = 3


class Name(str):
    def __str__(self):
        return "another"


THREES = (
    3.0, np.int8(3), np.int64(3), np.uint64(3), np.float32(3), np.array(3), torch.tensor(3),
    torch.tensor(3.0, dtype=torch.bfloat16), Fraction(6, 2), Decimal("3.00"), Level.LOW,
)  # fmt: skip


@pytest.mark.parametrize("three", THREES, ids=repr)
def test_numbers_of_equal_value_give_equal_seeds_at_every_caller(three):
    assert derive_seed(three, "a") == derive_seed(3, "a")
    assert generator("cpu", "a", three).initial_seed() == derive_seed("a", 3)
    here, there = StepRandom(three, three, 4), StepRandom(3, 3, 4)
    assert torch.equal(here.normal("eps"), there.normal("eps"))
    assert here.seeds("w") == there.seeds("w")


def test_truth_values_are_numbers_and_texts_are_their_characters():
    for true in (True, np.bool_(True), torch.tensor(True)):
        assert derive_seed(true) == derive_seed(1)
    for red in (Colour.RED, np.str_("red"), Name("red")):
        assert derive_seed(red) == derive_seed("red")
    assert derive_seed(-0.0) == derive_seed(0)
    assert derive_seed(2**70) == derive_seed(float(2**70)) != derive_seed(2**70 + 1)


def test_plain_keys_keep_the_seeds_that_they_have_had():
    """A pure hash, so the same on every machine: whoever changes these changes every run."""
    assert derive_seed(3) == 6091093113906596682
    assert derive_seed("a") == 4130140272143641223
    assert derive_seed(-1, "x", 0) == 1233164915306052784


@pytest.mark.parametrize(
    "part",
    [0.5, float("nan"), float("inf"), 3j, None, b"3", [3], (3,), np.array([1, 2]),
     torch.tensor([1, 2]), np.float64(0.1), Decimal("0.1"), object(), {}],
    ids=lambda part: type(part).__name__,  # an object's repr is another in every process
)  # fmt: skip
def test_what_is_neither_a_whole_number_nor_a_text_is_refused(part):
    with pytest.raises(TypeError, match="whole numbers and text"):
        derive_seed(0, part)
