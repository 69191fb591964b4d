"""Images to latents: diffusers' own numbers, and a cache that changes none of them."""

import threading

import pytest
import torch

from sparring.diffusion.randomness import StepRandom
from sparring.models.latents import LatentEncoder, decode, encode, latent_shape
from sparring.support.cache import TensorCache, fingerprint, key_of
from sparring.support.errors import UserError
from text_to_image import SIDE, autoencoder


@pytest.fixture(scope="module")
def vae():
    return autoencoder().eval().requires_grad_(False)


def images(n=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, SIDE, SIDE, generator=rng) * 2 - 1


def test_latents_are_those_of_diffusers(vae):
    x0 = images(1)
    theirs = vae.encode(x0).latent_dist.sample(torch.Generator().manual_seed(7))
    noise = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(encode(vae, x0, noise), theirs * vae.config.scaling_factor)
    mode = vae.encode(x0).latent_dist.mode() * 0.18215
    assert torch.equal(encode(vae, x0), mode)
    assert torch.equal(encode(vae, torch.cat([images(2, seed=1), x0]))[2:], mode)
    assert latent_shape(vae, (3, SIDE, 2 * SIDE)) == (4, SIDE // 2, SIDE)
    assert encode(vae, torch.cat([x0, x0], dim=-1)).shape[1:] == (4, SIDE // 2, SIDE)


def test_the_shift_and_the_statistics_of_other_autoencoders_are_undone(vae):
    """SD 3's shift_factor; latents_mean and latents_std of others."""
    x0, plain = images(2), vae.encode(images(2)).latent_dist.mode()
    try:
        vae.register_to_config(shift_factor=0.06, scaling_factor=1.5)
        torch.testing.assert_close(encode(vae, x0), (plain - 0.06) * 1.5)
        torch.testing.assert_close(decode(vae, encode(vae, x0)), vae.decode(plain).sample)
        mean, std = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 3.0]
        vae.register_to_config(latents_mean=mean, latents_std=std)
        shift, scale = (torch.tensor(one).view(1, 4, 1, 1) for one in (mean, std))
        torch.testing.assert_close(encode(vae, x0), (plain - shift) * 1.5 / scale)
        torch.testing.assert_close(decode(vae, encode(vae, x0)), vae.decode(plain).sample)
    finally:
        vae.register_to_config(
            shift_factor=None, scaling_factor=0.18215, latents_mean=None, latents_std=None
        )


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 16, 16), "n_channels=3"), ((3, 15, 16), "data.resolution"), ((2,), "from images")],
)
def test_images_that_the_vae_cannot_take_are_refused(vae, shape, message):
    with pytest.raises(UserError, match=message):
        latent_shape(vae, shape)


def test_the_noise_of_latents_follows_from_the_step(vae):
    """The rows of a batch get what they get in the whole of it."""
    x0, encoder = images(4), LatentEncoder(vae)
    whole = encoder({"x0": x0}, StepRandom(0, 5, 4))
    part = encoder({"x0": x0[2:]}, StepRandom(0, 5, 4, slice(2, 4)))
    torch.testing.assert_close(part, whole[2:])
    assert not torch.equal(encoder({"x0": x0}, StepRandom(0, 6, 4)), whole)
    mode = LatentEncoder(vae, sample=False)({"x0": x0}, StepRandom(0, 5, 4))
    assert torch.equal(mode, encode(vae, x0))


def test_cached_latents_are_the_same_bits_in_every_epoch(vae, tmp_path, monkeypatch):
    x0 = images(4)
    mirrored = torch.tensor([False, True, False, True])
    seen = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
    batch = {"x0": seen, "mirrored": mirrored, "digest": [key_of(one) for one in x0]}
    plain, cached = LatentEncoder(vae), LatentEncoder(vae, cache=TensorCache(tmp_path))
    expected = [plain({"x0": seen}, StepRandom(0, step, 4)) for step in (0, 1)]
    assert torch.equal(cached(batch, StepRandom(0, 0, 4)), expected[0])
    monkeypatch.setattr("sparring.models.latents.posterior", None)  # nothing is left to compute
    assert torch.equal(cached(batch, StepRandom(0, 1, 4)), expected[1])
    assert not torch.equal(*expected)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


def test_other_weights_other_pixels_and_the_mirror_image_have_other_keys(vae, tmp_path):
    x0 = images(1)
    digest = [key_of(x0[0])]
    cache, rng = TensorCache(tmp_path), StepRandom(0, 0, 1)
    first = LatentEncoder(vae, cache=cache)({"x0": x0, "digest": digest}, rng)
    other = autoencoder()
    with torch.no_grad():
        other.quant_conv.bias[0] += 1
    assert fingerprint(other) != fingerprint(vae)
    assert fingerprint(autoencoder()) == fingerprint(vae)
    changed = LatentEncoder(other, cache=cache)({"x0": x0, "digest": digest}, rng)
    assert torch.equal(changed, LatentEncoder(other)({"x0": x0}, rng))
    assert not torch.equal(changed, first)
    flipped = {"x0": x0.flip(-1), "digest": digest, "mirrored": torch.tensor([True])}
    again = LatentEncoder(vae, cache=cache)(flipped, rng)
    assert torch.equal(again, LatentEncoder(vae)({"x0": x0.flip(-1)}, rng))
    assert key_of(x0) != key_of(x0 + 1e-6)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_a_cache_may_be_written_by_many_and_be_damaged(tmp_path):
    cache, value = TensorCache(tmp_path), {"a": torch.randn(8, 4096)}
    keys = [key_of(i) for i in range(8)]

    def work():
        for _ in range(20):
            found = cache.batch(keys, lambda row: {"a": value["a"][row : row + 1]}, "cpu")
            assert torch.equal(found["a"], value["a"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list(tmp_path.rglob("*"))
    assert len([file for file in files if file.is_file()]) == 8  # no halves are left
    damaged = next(file for file in files if file.is_file())
    damaged.write_bytes(damaged.read_bytes()[:100])
    work()
    assert damaged.stat().st_size > 4096


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="latents_cache"):
        TensorCache(tmp_path / "file").batch(["00"], lambda row: {"a": torch.zeros(1)}, "cpu")
