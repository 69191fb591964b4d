"""Balls, ascents and radii against what geometry and linear algebra say."""

import pytest
import torch

from sparring.diffusion.randomness import StepRandom
from sparring.perturbations import (
    BALLS,
    Best,
    L2Ball,
    LinfBall,
    Radius,
    pgd,
    power_iteration,
    size_in,
    strongest,
)
from sparring.perturbations.attacks import value_and_gradient

DIM = 12


def _linear(direction):
    return lambda w: (w * direction).flatten(1).sum(1)


@pytest.mark.parametrize("name", BALLS)
def test_points_stay_in_the_ball(name):
    ball, radius = BALLS[name], torch.linspace(0.01, 2, 50)
    points = ball.draw(StepRandom(0, 0, 50), "omega", (3, 2, 2), radius)
    assert (ball.norm(points) <= radius * (1 + 1e-6)).all()
    far = points * 100
    inside = ball.project(far, radius)
    torch.testing.assert_close(ball.norm(inside), radius, rtol=1e-5, atol=0)
    torch.testing.assert_close(ball.project(points, radius), points)


@pytest.mark.parametrize("name", BALLS)
def test_projection_is_the_nearest_point(name):
    """No other point of the ball is nearer: <w - P(w), q - P(w)> <= 0 for all q in the ball."""
    ball, n = BALLS[name], 200
    torch.manual_seed(0)
    radius = torch.full((n,), 0.5)
    w = torch.randn(n, DIM)
    projected = ball.project(w, radius)
    others = ball.draw(StepRandom(1, 0, n), "omega", (DIM,), radius)
    assert (((w - projected) * (others - projected)).sum(1) <= 1e-5).all()


def test_draws_fill_the_ball_as_stated():
    n = 20_000
    radius = torch.full((n,), 0.3)
    cube = LinfBall().draw(StepRandom(0, 0, n), "omega", (4,), radius)
    assert abs(float(cube.std()) - 0.3 / 3**0.5) < 0.002  # uniform: r / sqrt(3)
    sphere = L2Ball().draw(StepRandom(0, 0, n), "omega", (4,), radius)
    torch.testing.assert_close(sphere.norm(dim=1), radius * 2)  # r sqrt(d)
    assert (sphere.mean(0).abs() < 0.01).all()


def test_on_a_linear_gain_pgd_reaches_the_corner_and_the_pole():
    torch.manual_seed(0)
    direction, radius = torch.randn(5, DIM), torch.linspace(0.1, 1, 5)
    start = LinfBall().draw(StepRandom(0, 0, 5), "omega", (DIM,), radius)
    corner = pgd(_linear(direction), start, radius, LinfBall(), 0.5 * radius, n_steps=4)
    torch.testing.assert_close(corner, radius[:, None] * direction.sign())
    start = torch.zeros(5, DIM)
    pole = pgd(_linear(direction), start, radius, L2Ball(), 0.5 * radius, n_steps=4)
    expected = radius[:, None] * DIM**0.5 * direction / direction.norm(dim=1, keepdim=True)
    torch.testing.assert_close(pole, expected)


def test_fgsm_is_one_projected_sign_step():
    radius, start = torch.tensor([0.2]), torch.tensor([[0.1, -0.1, 0.2]])
    got = pgd(_linear(torch.tensor([[1.0, 2.0, -3.0]])), start, radius, LinfBall(), 0.15, 1)
    torch.testing.assert_close(got, torch.tensor([[0.2, 0.05, 0.05]]))


def test_power_iteration_finds_the_top_direction_of_a_linear_map():
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.linspace(1, 0.1, DIM).double()) @ basis.T
    start, radius = torch.randn(4, DIM, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3, 0.4])

    def change(w):
        return w @ matrix

    one = power_iteration(change, start, radius.double(), n_iterations=1)
    expected = start @ matrix
    expected = expected / expected.norm(dim=1, keepdim=True) * radius[:, None] * DIM**0.5
    torch.testing.assert_close(one, expected)
    many = power_iteration(change, start, radius.double(), n_iterations=400)
    aligned = (many @ basis[:, 0]).abs() / many.norm(dim=1)
    torch.testing.assert_close(aligned, torch.ones(4, dtype=torch.float64))


def test_two_power_iterations_are_an_ascent_step_on_the_change():
    """On a symmetric map, along the gradient of its squared length."""
    torch.manual_seed(0)
    matrix = torch.randn(DIM, DIM, dtype=torch.float64)
    matrix, start = matrix + matrix.T, torch.randn(4, DIM, dtype=torch.float64)
    two = power_iteration(lambda w: w @ matrix, start, torch.ones(4).double(), n_iterations=2)
    _, gradient = value_and_gradient(lambda w: ((w @ matrix) ** 2).sum(1), start)
    torch.testing.assert_close(two, L2Ball().ascent(gradient))


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_a_row_without_a_usable_gradient_stays_where_it_is(broken):
    start = torch.full((2, 3), 0.1)
    scale = torch.tensor([[1.0], [broken]])

    def gain(w):
        return (w * scale).sum(1)

    radius = torch.ones(2)
    for moved in (
        pgd(gain, start, radius, LinfBall(), 0.5, 1),
        pgd(gain, start, radius, L2Ball(), 0.5, 1),
        power_iteration(lambda w: w * scale, start, radius, 1),
    ):
        assert torch.equal(moved[1], start[1])
        assert not torch.equal(moved[0], start[0])


def test_tiny_gradients_still_have_a_direction():
    gradient = torch.tensor([[3e-30, 4e-30]])
    expected = torch.tensor([[0.6, 0.8]]) * 2**0.5
    torch.testing.assert_close(L2Ball().ascent(gradient), expected)


def test_attacks_leave_no_gradient_in_the_weights():
    from sparring.diffusion.denoiser import frozen

    layer = torch.nn.Linear(3, 3)
    with frozen(layer):
        pgd(lambda w: layer(w).sum(1), torch.ones(2, 3), torch.ones(2), L2Ball(), 0.1, 1)
    assert layer.weight.grad is None
    assert not power_iteration(layer, torch.ones(2, 3), torch.ones(2), 2).requires_grad


@pytest.mark.parametrize("schedule", ["power", "power_sum", "sigma", "constant"])
def test_radius_is_monotone_and_bounded_below(schedule):
    sigma = torch.linspace(0, 1, 101)
    radius = Radius(schedule, scale=0.5)(sigma, torch.full((101,), 0.5))
    assert (radius.diff() >= 0).all()
    assert radius.min() >= 8 / 255


def test_radius_formulas():
    sigma, u = torch.tensor([0.5]), torch.tensor([0.25])
    beta = 0.1 + 0.25 * 0.2
    made = {
        name: Radius(name, 2.0, 0.1, 0.3, 0.6)(sigma, u)
        for name in ("power", "power_sum", "sigma", "constant")
    }
    torch.testing.assert_close(made["power"], torch.tensor([beta + (1 - beta) * 0.25]))
    torch.testing.assert_close(made["power_sum"], torch.tensor([beta + 0.25]))
    torch.testing.assert_close(made["sigma"], torch.tensor([0.3]))
    torch.testing.assert_close(made["constant"], torch.tensor([0.6]))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"schedule": "x"}, "schedule must be one of power, power_sum, sigma, constant"),
        ({"min_bias": -0.1}, "min_bias must be >= 0"),
        ({"rho": 0}, "rho must be > 0"),
        ({"scale": -1}, "scale must be >= 0"),
        ({"max_bias": 0.01}, "radius needs min_bias <= max_bias"),
    ],
)
def test_radius_refuses_nonsense(bad, said):
    with pytest.raises(ValueError, match=said):
        Radius(**bad)


@pytest.mark.parametrize("name", BALLS)
@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_strongest_keeps_the_best_point_of_each_row(name, n_steps):
    """On a wavy gain steps may lead down; what comes back is the best of what was asked about."""
    ball, n, seen = BALLS[name], 40, []
    torch.manual_seed(0)
    direction = torch.randn(n, DIM)

    def wavy(w):
        value = torch.sin(6 * w * direction).flatten(1).sum(1)
        seen.append((w.detach(), value.detach()))
        return value

    radius = torch.full((n,), 0.8)
    start = ball.draw(StepRandom(0, 0, n), "omega", (DIM,), radius)
    best = strongest(wavy, start, radius, ball, n_steps)
    assert len(seen) == n_steps + 1
    values = torch.stack([value for _, value in seen])
    torch.testing.assert_close(best.value, values.amax(0))
    torch.testing.assert_close(wavy(best.w), best.value)
    assert torch.equal(best.first_value, values[0])
    assert (ball.norm(best.w) <= 0.8 * (1 + 1e-5)).all()
    one = strongest(wavy, start, radius, ball, 1)
    assert (best.value >= one.value).all()
    assert (values.argmax(0) < n_steps).any() or n_steps == 1  # the last one is not always best


@pytest.mark.parametrize("name", BALLS)
def test_strongest_reaches_the_corner_and_the_pole(name):
    torch.manual_seed(0)
    direction, radius = torch.randn(5, DIM), torch.linspace(0.1, 1, 5)
    start = BALLS[name].draw(StepRandom(0, 0, 5), "omega", (DIM,), radius)
    best = strongest(_linear(direction), start, radius, BALLS[name], 20)
    expected = radius[:, None] * BALLS[name].ascent(direction)
    torch.testing.assert_close(best.w, expected, rtol=0, atol=1e-3)
    if name == "linf":  # FGSM's step leads to any corner
        one = strongest(_linear(direction), start, radius, BALLS[name], 1)
        torch.testing.assert_close(one.w, expected)


@pytest.mark.parametrize("name", BALLS)
def test_shorter_steps_settle_inside_the_ball(name):
    """Where the largest gain is inside, steps of the diameter would jump over it for ever."""
    torch.manual_seed(0)
    radius = torch.full((4,), 0.5)
    top = 0.5 * BALLS[name].draw(StepRandom(1, 0, 4), "omega", (DIM,), radius)
    start = BALLS[name].draw(StepRandom(0, 0, 4), "omega", (DIM,), radius)
    best = strongest(lambda w: -(w - top).square().mean(1), start, radius, BALLS[name], 100)
    torch.testing.assert_close(best.w, top, rtol=0, atol=0.02)


def test_best_takes_no_value_that_is_not_a_number():
    nan = float("nan")
    best = Best(torch.zeros(3, 1), torch.tensor([1.0, nan, 1.0]))
    best.offer(torch.ones(3, 1), torch.tensor([nan, 0.0, 2.0]))
    assert best.w.flatten().tolist() == [0, 1, 1]
    assert best.value.tolist() == [1, 0, 2]


def test_sizes_convert_between_units_and_between_element_and_image():
    x = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    sigma = torch.tensor([0.5, 0.01], dtype=torch.float64).reshape(2, 1, 1, 1)
    length = size_in("sample", 0.1, x, sigma, units="sample", per="image")
    torch.testing.assert_close(length, torch.full((2,), 0.1 / 3072**0.5, dtype=torch.float64))
    assert 3072**0.5 * float(length[0]) == pytest.approx(0.1)
    to_noise = size_in("noise", 0.02, x, sigma, units="sample")
    torch.testing.assert_close(to_noise, torch.tensor([0.04, 2.0], dtype=torch.float64))
    back = size_in("sample", 0.04, x, sigma, units="noise")
    torch.testing.assert_close(back, torch.tensor([0.02, 0.0004], dtype=torch.float64))
    same = size_in("noise", 0.04, x, sigma, units="noise")
    assert same.tolist() == [0.04, 0.04]
