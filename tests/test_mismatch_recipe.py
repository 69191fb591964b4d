"""recipes/mismatch.py: means, spreads and pairs of hand-made curves; the exact denoisers."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml

from sparring.data.analytic import MixtureTruth
from sparring.support.errors import UserError


def load_recipe(name):
    file = Path(__file__).parents[1] / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe, exact = load_recipe("mismatch"), load_recipe("mismatch_exact")


def make_run(folder, seed, distances):
    """A run whose curve has these mean distances by steps, twice that at the last call."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"training": {"seed": seed}}))
    key = "sliced_wasserstein"
    curves = [
        {
            "times": [{key: 0.0}, {key: 2 * distance, f"{key}_of_reference": 0.01}],
            "mean": {key: distance, f"{key}_of_reference": 0.02, "mmd_squared": 0.005},
            "protocol": {"steps": steps, "data": "plane", "data_fingerprint": f"of seed {seed}"},
        }
        for steps, distance in distances.items()
    ]
    content = {"sliced_wasserstein": 1.0, "mismatch": curves}
    (folder / "evaluation" / "figures.json").write_text(json.dumps(content))
    return str(folder)


def test_means_spreads_and_pairs(tmp_path):
    plain = [make_run(tmp_path / f"p{s}", s, {50: 0.1 + 0.1 * s, 10: 0.5}) for s in (0, 1, 2)]
    dro = [make_run(tmp_path / f"d{s}", s, {10: 0.2, 50: 0.05 + 0.1 * s}) for s in (2, 0)]
    text = recipe.main(tmp_path / "out" / "table", {"plain": plain, "dro": dro})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [row[1:4] for row in rows[2:]] == [
        ["10", "plain", "0, 1, 2"], ["10", "dro", "2, 0"],
        ["50", "plain", "0, 1, 2"], ["50", "dro", "2, 0"],
    ]  # fmt: skip
    mean = rows[0].index("mean over t")
    assert rows[4][mean] == "0.200 ± 0.1"  # 0.1, 0.2, 0.3
    assert rows[4][mean + 2] == "0.400 ± 0.2"
    assert rows[4][rows[0].index("MMD² x 1000")] == "5.00 ± 0"
    assert rows[5][-1].startswith("0.0500 ±")  # seed by seed, though the seeds' order differs
    assert rows[3][-1].startswith("0.300 ±")
    assert (tmp_path / "out" / "table.md").read_text() == text + "\n"
    assert "Frechet" not in text
    assert rows[4][-1] == "-"  # the first is compared with nobody
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())) == 4


def test_what_is_missing_or_double_is_said(tmp_path):
    run = make_run(tmp_path / "a", 0, {10: 0.1})
    same_seed = make_run(tmp_path / "b", 0, {10: 0.1})
    with pytest.raises(UserError, match="another run of its group has seed 0"):
        recipe.main(tmp_path / "t", {"plain": [run, same_seed]})
    (tmp_path / "a" / "evaluation" / "figures.json").unlink()
    with pytest.raises(UserError, match=r"has no curve: sparring evaluate .*mismatch=true"):
        recipe.main(tmp_path / "t", {"plain": [run]})


@pytest.mark.parametrize("s", [0.05, 0.5, 20.0])
def test_the_posterior_mean_of_the_square_is_the_integral(s):
    y = torch.tensor([[-1.1, 0.3], [0.95, 0.0]], dtype=torch.float64)
    u = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    weights = torch.exp(-((y[..., None] - u) ** 2) / (2 * s**2))
    weights[..., [0, -1]] /= 2
    expected = (weights * u).sum(-1) / weights.sum(-1)
    torch.testing.assert_close(
        exact.square_mean(y, torch.tensor([[s]], dtype=torch.float64)), expected, rtol=0, atol=1e-7
    )


def test_the_posterior_mean_of_the_mixture_is_tweedie_s():
    """E[x0 | x] = (x + sigma^2 grad log p(x)) / alpha, from autograd of the noisy density."""
    means, std, alpha, sigma = torch.eye(2, dtype=torch.float64), 0.2, 0.8, 0.6
    x = torch.tensor([[0.3, 0.5], [1.0, -0.2]], dtype=torch.float64, requires_grad=True)
    noisy = MixtureTruth(alpha * means, (alpha**2 * std**2 + sigma**2) ** 0.5)
    (score,) = torch.autograd.grad(noisy.log_density(x).sum(), x)
    at = (torch.full((2, 1), value, dtype=torch.float64) for value in (alpha, sigma))
    found = exact.mixture_mean(x.detach(), means, std, *at)
    torch.testing.assert_close(found, (x.detach() + sigma**2 * score) / alpha)


@pytest.mark.parametrize("name", ["plane", "gaussian_mixture"])
def test_the_exact_denoiser_in_many_steps_is_at_the_floor(name):
    line = exact.main(name, 200, 300, 2, [0])
    cells = [float(cell) for cell in line.split("|")[3:-1]]
    assert cells[0] == pytest.approx(cells[1], rel=0.25)
