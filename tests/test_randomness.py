import torch

from sparring.randomness import StepRandom, derive_seed, generator


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
