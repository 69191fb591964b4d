"""Hidden pixels are filled from what is seen around them."""

import pytest
import torch
from sklearn.datasets import load_sample_image

from sparring.data.audit.filling import filled, median, neighbours


def holes(size=(13, 21), share=0.4, n=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, *size, generator=rng) < share


def test_what_is_seen_stays_and_what_is_hidden_does_not_count():
    rng = torch.Generator().manual_seed(0)
    x, hidden = torch.rand(3, 2, 13, 21, generator=rng), holes()
    hidden[1] = False
    out = filled(x, hidden)
    assert torch.equal(out[~hidden.expand_as(x)], x[~hidden.expand_as(x)])
    other = torch.where(hidden, torch.rand(x.shape, generator=rng), x)
    assert torch.equal(filled(other, hidden), out)


@pytest.mark.parametrize("side", [1, 5, 12])
def test_a_constant_image_is_restored_whatever_the_hole(side):
    truth = torch.tensor([0.25, 0.5, 1.0])[:, None, None].expand(3, 13, 21)[None]
    hidden = torch.zeros(1, 1, 13, 21, dtype=torch.bool)
    hidden[:, :, 1 : 1 + side, 2 : 2 + side] = True
    assert torch.allclose(filled(torch.where(hidden, 0.0, truth), hidden), truth, atol=1e-6)


def test_values_stay_within_those_seen():
    rng = torch.Generator().manual_seed(1)
    x, hidden = torch.rand(3, 1, 16, 16, generator=rng), holes((16, 16), 0.9)
    seen = ~hidden
    low = x.masked_fill(hidden, 2).flatten(1).amin(1)[:, None, None, None]
    high = x.masked_fill(hidden, -1).flatten(1).amax(1)[:, None, None, None]
    out = filled(x, hidden)
    assert seen.flatten(1).any(1).all()
    assert ((out >= low - 1e-6) & (out <= high + 1e-6)).all()


def test_an_isolated_pixel_gets_the_median_of_its_seen_neighbours():
    x = torch.tensor([[0.1, 0.2, 0.3], [0.4, 9.0, 0.5], [0.6, 0.7, 0.8]])[None, None]
    hidden = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    hidden[0, 0, 1, 1] = True
    assert filled(x, hidden)[0, 0, 1, 1].item() == pytest.approx((0.4 + 0.5) / 2)
    hidden[0, 0, 0, 0] = True  # one less: 0.2 0.3 0.4 [0.5] 0.6 0.7 0.8
    out = filled(x, hidden)
    assert out[0, 0, 1, 1].item() == pytest.approx(0.5)
    assert out[0, 0, 0, 0].item() == pytest.approx(0.3)  # of 0.2 and 0.4


def test_a_dead_pixel_beside_an_edge_takes_a_side_of_it():
    x = torch.zeros(1, 1, 7, 7)
    x[..., 3:] = 1
    hidden = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
    hidden[0, 0, 3, 3] = True
    assert filled(torch.where(hidden, 0.0, x), hidden)[0, 0, 3, 3] == 1


def test_the_near_counts_before_the_far():
    """A wide hole in a ramp rises with it; a single mean would not."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    hidden = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    hidden[..., 4:10, 4:10] = True
    out = filled(torch.where(hidden, 100.0, ramp), hidden)[0, 0, 4:10, 4:10]
    assert (out[:, -1] > out[:, 0] + 1).all()
    assert out.mean().item() == pytest.approx(6.5, abs=1.5)


def test_rows_do_not_see_each_other_and_an_image_without_a_seen_pixel_stays():
    rng = torch.Generator().manual_seed(2)
    x, hidden = torch.rand(3, 1, 9, 9, generator=rng), holes((9, 9), 0.5)
    hidden[1] = True
    out = filled(x, hidden)
    assert torch.equal(out[1], x[1])
    for i in range(3):
        assert torch.equal(filled(x[i : i + 1], hidden[i : i + 1])[0], out[i])


def test_a_photograph_with_holes_comes_nearer_than_its_mean():
    photo = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None].float() / 255
    photo = photo[:, :, 100:200, 200:333]
    hidden = holes((100, 133), 0.05, 1)
    hidden[..., 40:60, 70:90] = True
    where = hidden.expand_as(photo)
    rmse = (filled(photo.masked_fill(hidden, 0), hidden) - photo)[where].square().mean().sqrt()
    mean = photo[~where].mean()
    assert rmse < 0.6 * (mean - photo)[where].square().mean().sqrt()


def test_the_median_counts_what_it_is_told_to():
    values = torch.tensor([[3.0, 1.0, 2.0, 9.0]])[..., None]
    assert median(values, torch.tensor([[True, True, True, True]])).item() == 2.5
    assert median(values, torch.tensor([[True, False, True, True]])).item() == 3
    assert median(values, torch.tensor([[False, False, False, True]])).item() == 9


def test_neighbours_know_the_border():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    at = torch.tensor([0])
    values, inside = neighbours(x, at, at, at)
    assert values[inside].flatten().tolist() == [1, 3, 4]
