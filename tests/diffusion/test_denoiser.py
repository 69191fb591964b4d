import diffusers
import pytest
import torch
from torch import nn

from sparring.diffusion.denoiser import Denoiser, SharedDropout, frozen
from sparring.models.networks import MLP
from support import CASES, SCHEDULES, GaussianNetwork, tiny_unet


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_exact_denoiser_gives_the_posterior_mean(name, kind):
    schedule = SCHEDULES[name]()
    denoiser = Denoiser(GaussianNetwork(schedule, kind, mean=0.3, std=0.7), schedule, kind)
    t = schedule.times(torch.linspace(0.05, 0.95, 20))
    x_t = torch.randn(20, 2, dtype=torch.float64)
    alpha, sigma = schedule.at(t, like=x_t)
    expected = (0.3 * sigma**2 + 0.49 * alpha * x_t) / (sigma**2 + 0.49 * alpha**2)
    torch.testing.assert_close(denoiser(x_t, t).x0, expected, rtol=1e-6, atol=1e-8)


def test_diffusers_models_are_called_as_they_call_themselves(vp):
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 10, 100, 900])
    unet = tiny_unet(num_class_embeds=11)
    labels = torch.tensor([0, 3, 5, 10])
    got = Denoiser(unet, vp)(x, t, class_labels=labels)
    assert torch.equal(got.output, unet(x, t, class_labels=labels).sample)


def test_text_conditional_and_transformer_models(vp):
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        norm_num_groups=4,
        attention_head_dim=4,
    )
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 8)
    denoiser = Denoiser(unet, vp, null_condition={"encoder_hidden_states": torch.zeros(1, 5, 8)})
    expected = unet(x, t, text).sample
    assert torch.equal(denoiser(x, t, encoder_hidden_states=text).output, expected)
    dropped = denoiser.drop_condition({"encoder_hidden_states": text}, torch.tensor([True, False]))[
        "encoder_hidden_states"
    ]
    assert dropped[0].abs().max() == 0
    assert torch.equal(dropped[1], text[1])

    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    ).eval()
    labels = torch.tensor([1, 2])
    both = dit(x, timestep=t, class_labels=labels).sample
    got = Denoiser(dit, vp, learned_variance=True)(x, t, class_labels=labels)
    assert torch.equal(got.output, both[:, :4])
    assert torch.equal(got.variance, both[:, 4:])


def test_label_dropout_needs_a_null_condition(vp):
    labels, dropped = torch.tensor([1, 2, 3]), torch.tensor([False, True, False])
    denoiser = Denoiser(MLP(2, 16, 1, num_classes=5), vp, null_condition={"class_labels": 4})
    out = denoiser.drop_condition({"class_labels": labels}, dropped)
    assert out["class_labels"].tolist() == [1, 4, 3]
    with pytest.raises(ValueError, match="null_condition"):
        Denoiser(MLP(2, 16, 1), vp).drop_condition({"class_labels": labels}, dropped)


def test_unknown_kinds_are_refused(vp):
    with pytest.raises(ValueError, match="kind must be one of"):
        Denoiser(nn.Identity(), vp, "noise")
    with pytest.raises(ValueError, match="go together"):
        Denoiser(nn.Identity(), vp, "edm")


def test_frozen_leaves_no_gradient_in_the_weights_and_restores_them():
    network = MLP(2, 16, 1)
    network.last[-1].bias.requires_grad_(False)
    x = torch.randn(3, 2, requires_grad=True)
    with frozen(network):
        network(x, torch.ones(3)).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()].count(False) == 1


def test_shared_dropout_repeats_the_mask_and_advances_once():
    layer, x = nn.Dropout(0.5), torch.ones(64)
    torch.manual_seed(3)
    first_alone, after_alone = layer(x), torch.rand(1)
    torch.manual_seed(3)
    shared = SharedDropout(torch.device("cpu"))
    with shared():
        one = layer(x)
    with shared():
        two = layer(x)
    assert torch.equal(one, two)
    assert torch.equal(one, first_alone)
    assert torch.equal(torch.rand(1), after_alone)


def test_the_mlp_tells_classes_and_times_apart():
    torch.manual_seed(0)
    mlp, x = MLP(3, 32, 2, num_classes=4), torch.randn(1, 3).expand(2, 3)
    out = mlp(x, torch.tensor([5, 5]), class_labels=torch.tensor([0, 1]))
    assert not torch.allclose(out[0], out[1])
    out = mlp(x, torch.tensor([5, 6]), class_labels=torch.tensor([0, 0]))
    assert not torch.allclose(out[0], out[1])
    with pytest.raises(ValueError, match="class_labels"):
        mlp(x, torch.tensor([5, 6]))
