"""Adversarial diffusion tuning: gradients against autograd through the same rollout."""

import weakref
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from sparring.adversarial.discriminators import READINGS, Discriminator, Heads
from sparring.adversarial.eyes import ImageEye, LatentEye
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.randomness import StepRandom
from sparring.diffusion.schedules import FlowSchedule, schedule_from_config
from sparring.objectives import ADT
from sparring.objectives.adt import ADTDraws
from sparring.sampling.schedulers import make_scheduler
from sparring.sampling.settings import Sampling
from support import FLOW, SD, tiny_unet
from text_to_image import unet

B = 3


class Convolutions(nn.Module):
    """A frozen backbone with two maps."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.channels = [6, 8]
        self.a, self.b = nn.Conv2d(n_in, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.a(x).tanh()
        return [first, self.b(first).tanh()]


def discriminator(n_in: int, reading: str = "patches", **words: Any) -> Discriminator:
    eye = ImageEye(Convolutions(n_in), ["color", "translation"])
    torch.manual_seed(8)
    return Discriminator(eye, Heads(eye.channels, reading, 12), **words)


def sd3() -> nn.Module:
    torch.manual_seed(2)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
        pooled_projection_dim=12, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    with torch.no_grad():  # its last layers start at zero, where there is no gradient to compare
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return network.eval()


def condition(name: str, rows: int, seed: int) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=rng)

    if name == "sd":
        return {"encoder_hidden_states": some(5, 16)}
    if name == "sdxl":
        sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).repeat(rows, 1)
        added = {"text_embeds": some(12), "time_ids": sizes}
        return {"encoder_hidden_states": some(5, 24), "added_cond_kwargs": added}
    if name == "sd3":
        return {"encoder_hidden_states": some(5, 16), "pooled_projections": some(12)}
    return {}


def model(name: str) -> tuple[Denoiser, dict[str, Any]]:
    """A tiny denoiser with a null condition, and the config of its scheduler."""
    if name == "unconditional":
        return Denoiser(tiny_unet().eval(), schedule_from_config(SD), "v"), SD
    if name == "sd3":
        null = condition(name, 1, 9)
        return Denoiser(sd3(), FlowSchedule(3.0), "flow", null_condition=null), FLOW
    words = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    network = (
        unet(16)
        if name == "sd"
        else unet(24, projection_class_embeddings_input_dim=6 * 8 + 12, **words)
    )
    null = condition(name, 1, 9)
    return Denoiser(network, schedule_from_config(SD), "eps", null_condition=null), SD


def case(
    name: str, sampler: str | None = None, rival: Discriminator | None = None, **words: Any
) -> tuple[ADT, Denoiser, Discriminator, ADTDraws]:
    """An objective, its players and a step's draws."""
    denoiser, config = model(name)
    rival = rival or discriminator(1 if name == "unconditional" else 4)
    if sampler is not None:
        scheduler = make_scheduler(Sampling(sampler), config, denoiser.kind)
        words["scheduler"] = scheduler
    objective = ADT(denoiser.schedule, **{"num_inference_steps": 6, "weight": 0.7, **words})
    objective.set_up(denoiser, rival)
    shape = (1, 8, 8) if name == "unconditional" else (4, 8, 8)
    x0 = torch.rand(B, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = {"x0": x0, "cond": condition(name, B, 3)}
    step = words.get("warmup_batches", 0) + words.get("discriminator_steps", 1) - 1
    return objective, denoiser, rival, objective.draw(batch, StepRandom(0, step, B), 1)


def nets(denoiser: Denoiser, rival: Discriminator) -> dict[str, Any]:
    return {"model": denoiser, "discriminator": rival}


def learn(objective: ADT, denoiser: Denoiser, rival: Discriminator, s: ADTDraws) -> dict[str, Any]:
    """Gradients of the model's turn, as the loop takes it, and the sum of each term."""
    denoiser.zero_grad()
    turns = objective.turns(nets(denoiser, rival), s)
    turn = next(turns)
    assert turn.player == "model"
    terms: dict[str, Any] = {}
    for part in turn.parts:
        own = part()
        torch.stack(list(own.values())).sum(0).mean().backward()
        for key, value in own.items():
            terms[key] = terms.get(key, 0) + value.detach()
    turns.close()
    return terms


def gradients(denoiser: Denoiser) -> Tensor:
    found = [one.grad for one in denoiser.network.parameters() if one.requires_grad]
    return torch.cat([one.flatten() for one in found if one is not None])


def by_autograd(objective: ADT, denoiser: Denoiser, rival: Discriminator, s: ADTDraws) -> Tensor:
    """The adversarial loss with the whole rollout in one graph, the sampler's steps included."""
    denoiser.zero_grad()
    answer, path = objective.guided(denoiser, s.told), objective.path
    walk = path.walk(s.start, path.begin(s.start, s.x0, s.noise), s.generators)
    for call in range(s.start, path.n_calls):
        trained = call in s.trained
        x_t = walk.x_t if objective.input_grad and trained else walk.x_t.detach()
        with torch.set_grad_enabled(trained):
            output = answer(x_t, path.times[call])
        walk.step(output)
    eye, (a, b) = rival.eye, s.looks
    with torch.no_grad():
        real, again = eye(s.x0, b, s.told), eye(s.x0, a, s.told)
    loss = rival.generator_loss(eye(walk.x_t, a, s.told), real, again)
    (objective.weight * loss.mean()).backward()
    return gradients(denoiser)


CASES: list[tuple[str, str | None, dict[str, Any]]] = [
    ("unconditional", None, {}),
    ("unconditional", "heun", {"n_trained": 5}),
    ("sd", None, {"guidance_scale": 3.0}),
    ("sd", None, {"guidance_scale": 3.0, "cfg_grad": "cond_only", "trained": "random"}),
    ("sd", "ddpm", {"guidance_scale": 3.0, "trained": "last"}),
    ("sd", "dpmsolver++", {"guidance_scale": 3.0}),
    ("sd", "unipc", {"guidance_scale": 3.0}),
    ("sd", "euler", {"guidance_scale": 3.0}),
    ("sdxl", None, {"guidance_scale": 3.0}),
    ("sd3", None, {"guidance_scale": 3.0}),
    ("sd3", "flow_heun", {"guidance_scale": 3.0}),
]


@pytest.mark.parametrize("input_grad", [False, True])
@pytest.mark.parametrize(("name", "sampler", "words"), CASES)
def test_the_backward_pass_in_parts_is_autograd_through_the_rollout(
    name: str, sampler: str | None, words: dict[str, Any], input_grad: bool
) -> None:
    words = {"n_trained": 3, "start": "noise", "diffusion_weight": 0.0, **words}
    if input_grad:
        words["n_trained"] = 99
    objective, denoiser, rival, s = case(
        name, sampler, input_grad=input_grad, **{**words, "diffusion_weight": 1e-30}
    )
    expected = by_autograd(objective, denoiser, rival, s)
    learn(objective, denoiser, rival, s)
    found = gradients(denoiser)
    assert len(s.trained) == min(words["n_trained"], objective.path.n_calls)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


class LiveGraph:
    """Most bytes that backward passes were waiting for at once."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    def pack(self, value: Tensor) -> list[Tensor]:
        held = Held([value])
        self.live += value.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(held, self.release, value.nbytes)
        return held

    def release(self, nbytes: int) -> None:
        self.live -= nbytes


class Held(list):
    """A list that may be watched."""


def test_memory_does_not_grow_with_the_trained_calls() -> None:
    """One graph at a time, where autograd through the rollout holds K; the path is the same."""

    def peak(way: Any, K: int) -> int:
        words = {"guidance_scale": 3.0, "num_inference_steps": 8, "start": "noise", "n_trained": K}
        played, graph = case("sd", **words), LiveGraph()
        with torch.autograd.graph.saved_tensors_hooks(graph.pack, lambda held: held[0]):
            way(*played)
        assert graph.live == 0
        return graph.peak

    in_parts = peak(learn, 8)
    assert in_parts == pytest.approx(peak(learn, 1), rel=0.05)
    assert peak(by_autograd, 8) > 7 * in_parts


def test_a_missing_weight_would_be_noticed() -> None:
    """The comparison above is not blind: with unit weights the two differ."""
    objective, denoiser, rival, s = case("sd", start="noise", diffusion_weight=1e-30)
    expected = by_autograd(objective, denoiser, rival, s)
    objective.path_weight = "unit"
    learn(objective, denoiser, rival, s)
    assert float((gradients(denoiser) - expected).norm() / expected.norm()) > 0.1


def test_the_terms_add_up_to_the_losses() -> None:
    objective, denoiser, rival, s = case("sd", diffusion_weight=0.5, start="noise")
    terms = learn(objective, denoiser, rival, s)
    with torch.no_grad():
        answer = objective.guided(denoiser, s.told)
        x_end, _ = objective.rollout(denoiser, answer, s)
        eye, (a, b) = rival.eye, s.looks
        maps = eye(x_end, a, {}), eye(s.x0, b, {}), eye(s.x0, a, {})
        expected = 0.7 * rival.generator_loss(*maps)
        plain = objective.denoising(objective.bind(denoiser, s)(s.x_t), s)["denoise"]
    torch.testing.assert_close(terms["adversarial"], expected)
    torch.testing.assert_close(terms["denoise"], 0.5 * plain)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_x0_balanced_weights_do_not_depend_on_the_parametrisation(kind: str) -> None:
    """d o_k / d theta times w_k is (d x0_hat_k / d theta) / n for every kind."""
    schedule = schedule_from_config(SD)
    denoiser = Denoiser(tiny_unet(), schedule, kind)
    objective = ADT(schedule, num_inference_steps=5, path_weight="x0_balanced")
    objective.set_up(denoiser, discriminator(1))
    w = objective.path.weights(objective.path_weight, 0, denoiser.pair)
    x_t, output = torch.randn(2, 1, 8, 8).double(), torch.randn(2, 1, 8, 8).double()
    for call in range(5):
        o = output.clone().requires_grad_()
        alpha, sigma = schedule.at(objective.path.times[call].expand(2), like=x_t)
        a, b = denoiser.pair(alpha, sigma)
        x0 = (sigma * o - b * x_t) / (a * sigma - b * alpha)
        (slope,) = torch.autograd.grad(x0.sum(), o)
        torch.testing.assert_close(slope / 5, w[call].expand_as(slope))


def test_unit_weights_sum_to_one_with_the_native_signs() -> None:
    for name in ("sd", "sd3"):
        objective, denoiser, _, _ = case(name, path_weight="unit")
        w, native = (
            objective.path.weights(objective.path_weight, 0, denoiser.pair),
            objective.path.coefficients(0)[-1],
        )
        assert float(w.abs().sum()) == pytest.approx(1)
        assert torch.equal(w.sign(), native.sign())


def test_where_rollouts_begin_and_what_is_trained() -> None:
    """Starts are uniform over the path; "even" subsets are evenly spaced, "last" are the last."""
    objective, *_ = case("unconditional", n_trained=2)
    batch = {"x0": torch.zeros(2, 1, 8, 8)}
    draws = [objective.draw(batch, StepRandom(0, i, 2), 0) for i in range(600)]
    counts = torch.bincount(torch.tensor([s.start for s in draws]), minlength=6)
    assert float((counts / 600 - 1 / 6).abs().max()) < 0.05
    assert all(len(s.trained) == min(2, 6 - s.start) for s in draws)
    from_noise = [s.trained for s in draws if s.start == 0]
    assert {b - a for a, b in from_noise} == {3}
    assert {a for a, _ in from_noise} == {0, 1, 2}
    objective.trained = "last"
    assert objective.draw(batch, StepRandom(0, 0, 2), 0).trained[-1] == 5
    objective.trained = "random"
    seen = {objective.draw(batch, StepRandom(0, i, 2), 0).trained for i in range(200)}
    assert any(b - a not in (3,) for a, b in (one for one in seen if len(one) == 2))


def test_rows_of_a_micro_batch_share_the_path_on_all_processes() -> None:
    objective, *_ = case("unconditional", n_trained=2, trained="random")
    parts = [
        objective.draw({"x0": torch.zeros(2, 1, 8, 8)}, StepRandom(5, 9, 4, rows, micro=1), 0)
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert (parts[0].start, parts[0].trained) == (parts[1].start, parts[1].trained)
    x0 = torch.zeros(2, 1, 8, 8)
    differ = 0
    for i in range(20):
        random = [StepRandom(5, i, 4, slice(0, 2), micro=micro) for micro in (0, 1)]
        first, second = (objective.draw({"x0": x0}, one, 0) for one in random)
        differ += (first.start, first.trained) != (second.start, second.trained)
    assert differ > 10


def test_a_rollout_draws_nothing_itself() -> None:
    """The same draws of a stochastic sampler make the same rollout, other draws another."""
    objective, denoiser, _, s = case("sd", "ddpm", start="noise")
    answer = objective.guided(denoiser, s.told)
    once, again = (objective.rollout(denoiser, answer, s)[0] for _ in range(2))
    assert torch.equal(once, again)
    s.seeds = [seed + 1 for seed in s.seeds]
    assert not torch.equal(once, objective.rollout(denoiser, answer, s)[0])


def test_who_learns_in_which_batch() -> None:
    objective, denoiser, rival, _ = case("unconditional", warmup_batches=3, discriminator_steps=2)
    players = []
    for batch in range(7):
        s = objective.draw({"x0": torch.zeros(2, 1, 8, 8)}, StepRandom(0, batch, 2), 0)
        turns = objective.turns(nets(denoiser, rival), s)
        players.append("".join(turn.player[0] for turn in turns))
    assert players == ["d", "d", "d", "d", "md", "d", "md"]
    assert objective.n_batches(2) == 7


def test_nothing_leaks_into_what_is_frozen_or_into_the_other_player() -> None:
    objective, denoiser, rival, s = case("sd", guidance_scale=2.0)
    turns = objective.turns(nets(denoiser, rival), s)
    for part in next(turns).parts:
        torch.stack(list(part().values())).sum(0).mean().backward()
    assert all(one.grad is None for one in rival.parameters())
    assert all(one.requires_grad for one in rival.network.parameters())
    assert gradients(denoiser).abs().sum() > 0
    denoiser.zero_grad()
    for part in next(turns).parts:
        torch.stack(list(part().values())).sum(0).mean().backward()
    assert all(one.grad is None for one in denoiser.parameters())
    assert all(one.grad is None for one in rival.eye.parameters())
    assert all(one.grad is not None for one in rival.network.parameters())


def test_only_the_heads_learn_when_all_else_is_frozen() -> None:
    objective, denoiser, rival, s = case("unconditional")
    denoiser.requires_grad_(False)
    s.learns = False
    (turn,) = objective.turns(nets(denoiser, rival), s)
    torch.stack(list(turn.parts[0]().values())).sum(0).mean().backward()
    assert all(one.grad is None for one in [*denoiser.parameters(), *rival.eye.parameters()])
    assert all(one.grad is not None for one in rival.network.parameters())


def test_gradient_checkpointing_changes_no_gradient() -> None:
    """With the input detached a reentrant checkpoint would silently give none."""
    objective, denoiser, rival, s = case("sd", guidance_scale=2.0)
    learn(objective, denoiser, rival, s)
    expected = gradients(denoiser)
    network: Any = denoiser.network
    network.enable_gradient_checkpointing()
    learn(objective, denoiser, rival, s)
    torch.testing.assert_close(gradients(denoiser), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_rollouts_run_without_dropout_and_leave_training_mode(checkpointed: bool) -> None:
    """Checkpointed blocks are computed again in the backward pass: without dropout too."""
    network: Any = tiny_unet(dropout=0.5).train()
    if checkpointed:
        network.enable_gradient_checkpointing()
    denoiser = Denoiser(network, schedule_from_config(SD), "v")
    rival = discriminator(1)
    objective = ADT(denoiser.schedule, num_inference_steps=4, diffusion_weight=0.0, weight=1.0)
    objective.set_up(denoiser, rival)
    s = objective.draw({"x0": torch.rand(2, 1, 8, 8)}, StepRandom(0, 0, 2), 1)
    learn(objective, denoiser, rival, s)
    once = gradients(denoiser)
    learn(objective, denoiser, rival, s)
    assert torch.equal(gradients(denoiser), once)
    objective.diffusion_weight = 1.0  # and the denoising loss with it
    terms = [learn(objective, denoiser, rival, s) for _ in range(2)]
    assert not torch.equal(terms[0]["denoise"], terms[1]["denoise"])
    assert torch.equal(terms[0]["adversarial"], terms[1]["adversarial"])
    assert denoiser.network.training
    assert all(one.training for one in denoiser.network.modules())


def test_few_rows_at_a_time_change_nothing() -> None:
    objective, denoiser, rival, s = case("sd", guidance_scale=2.0)
    learn(objective, denoiser, rival, s)
    expected = gradients(denoiser)
    objective.rows_at_once = 2
    learn(objective, denoiser, rival, s)
    torch.testing.assert_close(gradients(denoiser), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_trains_both_players(reading: str) -> None:
    """A few alternating steps: the discriminator's loss falls on fixed fakes."""
    rival = discriminator(1, reading, r1=1e-3)
    objective, denoiser, _, s = case("unconditional", rival=rival, start="noise")
    optimizer = torch.optim.Adam(rival.network.parameters(), lr=3e-3, betas=(0.0, 0.99))
    losses = []
    for _ in range(30):
        *_, turn = objective.turns(nets(denoiser, rival), s)
        terms = turn.parts[0]()
        torch.stack(list(terms.values())).sum(0).mean().backward()
        optimizer.step()
        rival.zero_grad()
        losses.append(float(terms["discriminator"].detach().mean()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_model_learns_to_deceive() -> None:
    """Against fixed heads the adversarial loss of the same rollout falls."""
    objective, denoiser, rival, s = case(
        "unconditional", start="noise", diffusion_weight=0.0, n_trained=6
    )
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        losses.append(float(learn(objective, denoiser, rival, s)["adversarial"].mean()))
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05


def test_latents_are_judged_through_the_denoisers_own_blocks() -> None:
    """No decoder and no other network; the gradient is that of autograd all the same."""
    for name in ("sd", "sd3"):
        copied, _ = model(name)
        eye = LatentEye(copied)
        channels = eye.channels_of(torch.zeros(1, 4, 8, 8), condition(name, 1, 9))
        torch.manual_seed(3)
        rival = Discriminator(eye, Heads(channels, "patches", 12))
        objective, denoiser, rival, s = case(name, rival=rival, diffusion_weight=1e-30)
        expected = by_autograd(objective, denoiser, rival, s)
        learn(objective, denoiser, rival, s)
        assert float((gradients(denoiser) - expected).norm() / expected.norm()) < 1e-5


def test_the_other_real_image_is_seen_with_its_own_condition() -> None:
    """The eye that reads conditions is told of each image what is true of it."""
    copied, _ = model("sd")
    eye = LatentEye(copied)
    heads = Heads(eye.channels_of(torch.zeros(1, 4, 8, 8), condition("sd", 1, 9)), "patches", 12)
    rival = Discriminator(eye, heads)
    objective, _, _, s = case("sd", rival=rival, real_pair="other", rows_at_once=2)
    (fake, real, again), _ = objective.judge(rival, s.noise, s)
    (a, b), row = s.looks, [B - 1, 0, 1]
    other = {key: value[row] for key, value in s.told.items()}
    with torch.no_grad():
        expected = eye(s.noise, a, s.told), eye(s.x0, b, s.told), eye(s.x0[row], a, other)
    for found, known in zip((fake, real, again), expected, strict=True):
        for one, its in zip(found, known, strict=True):
            torch.testing.assert_close(one, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cfg_grad", ["both", "cond_only"])
def test_guidance_trains_both_answers_or_the_conditional_one(cfg_grad: str) -> None:
    """o = null + w (conditional - null), with the null answer detached or not."""
    objective, denoiser, _, s = case("sd", guidance_scale=3.0, cfg_grad=cfg_grad)
    t = objective.path.times[2]
    null = {key: one.expand(B, 5, 16) for key, one in condition("sd", 1, 9).items()}
    output = objective.guided(denoiser, s.told)(s.noise, t)
    output.square().sum().backward()
    found = gradients(denoiser)
    denoiser.zero_grad()
    conditional, given = (denoiser(s.noise, t.expand(B), **one).output for one in (s.told, null))
    given = given if cfg_grad == "both" else given.detach()
    expected = 3 * conditional - 2 * given
    expected.square().sum().backward()
    torch.testing.assert_close(output, expected)
    known = gradients(denoiser)
    assert float((found - known).norm() / known.norm()) < 1e-5


def test_guidance_without_a_condition_is_refused() -> None:
    objective, denoiser, rival, s = case("unconditional", guidance_scale=2.0)
    with pytest.raises(ValueError, match="needs a condition"):
        next(objective.turns(nets(denoiser, rival), s))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"trained": "first"}, "trained must be"),
        ({"n_trained": 0}, "n_trained must be >= 1"),
        ({"weight": -1.0}, "weight must be >= 0"),
        ({"weight": 0.0, "diffusion_weight": 0.0}, "learns nothing"),
        ({"input_grad": True, "path_weight": "unit"}, "needs path_weight native"),
    ],
)
def test_wrong_options(words: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ADT(schedule_from_config(SD), **words)


def test_the_balance_is_the_share_of_deceived_pairs_and_warns_once() -> None:
    objective = ADT(schedule_from_config(SD))
    balance = objective.balance
    balance.see(torch.tensor([[1.0, 3.0], [2.0, 0.0]]))  # fake 2 beats real 1, no other pair does
    assert balance.found() == {
        "balance/real": 2.0, "balance/fake": 1.0, "balance/overlap": 0.25
    }  # fmt: skip
    lines = []
    for _ in range(1200):
        balance.see(torch.tensor([[1.0, 3.0], [-2.0, 0.0]]))
        lines += balance.news()
    assert len(lines) == 1
    assert "tells every fake" in lines[0]
    other = ADT(schedule_from_config(SD))
    other.load_state_dict(objective.state_dict())
    assert other.found() == objective.found()
    other.balance.see(torch.tensor([[1.0, 3.0], [-2.0, 0.0]]))
    assert other.found() != {}


def test_gradient_norms_are_those_of_the_calls() -> None:
    """early, middle, late: of a rollout with one trained call in each third."""
    objective, denoiser, rival, s = case(
        "unconditional", start="noise", n_trained=3, diffusion_weight=1e-30
    )
    s.step = 10
    learn(objective, denoiser, rival, s)
    (turn, *_) = [next(objective.turns(nets(denoiser, rival), s))]
    norms = []
    for part in turn.parts[1:]:  # the last call first
        denoiser.zero_grad()
        part()["adversarial"].mean().backward()
        norms.append(float(gradients(denoiser).norm()))
    objective.balance.unwatch()
    found = objective.found()
    thirds = [found[f"balance/{name}"] for name in ("late", "middle", "early")]
    assert thirds == pytest.approx(norms, rel=1e-5)


def test_gradient_norms_leave_out_the_next_micro_batch() -> None:
    """Its denoising loss comes after the first one's last call."""
    objective, denoiser, rival, s = case("unconditional", start="noise", n_trained=1)
    s.step = 10
    first, second = (next(objective.turns(nets(denoiser, rival), s)) for _ in range(2))
    norms = []
    for part in [*first.parts, second.parts[0]]:
        denoiser.zero_grad()
        torch.stack(list(part().values())).sum(0).mean().backward()
        norms.append(float(gradients(denoiser).norm()))
    objective.balance.unwatch()
    assert list(objective.found().values()) == pytest.approx([norms[1]], rel=1e-5)
