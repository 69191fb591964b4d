"""The public CIFAR-10 networks: their published sizes, and the shortcut without weights."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparring.support.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
import cifar10_resnet  # type: ignore


def test_sizes_are_those_of_he_et_al():
    """0.27 M parameters with 20 layers and 0.85 M with 56 (their table 6)."""
    for n_layers, n_parameters in ((20, 269_722), (56, 853_018)):
        network = cifar10_resnet.ResNet((n_layers - 2) // 6)
        assert sum(p.numel() for p in network.parameters()) == n_parameters


def test_depth_is_read_from_the_file(tmp_path, monkeypatch):
    network = cifar10_resnet.ResNet(2).eval()
    save_file(network.state_dict(), tmp_path / "resnet14.safetensors")
    monkeypatch.setenv("SPARRING_CIFAR10_RESNET", str(tmp_path / "resnet14.safetensors"))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(cifar10_resnet.features()(images), network(images))


def test_a_block_whose_weights_are_zero_is_its_shortcut():
    """Every second pixel, and zeros for as many new channels on either side."""
    block = cifar10_resnet.Block(16, 32).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 16, 4, 4)
    y = block(x)
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_weights_that_nobody_named_are_asked_for(monkeypatch):
    monkeypatch.delenv("SPARRING_CIFAR10_RESNET", raising=False)
    with pytest.raises(UserError, match="SPARRING_CIFAR10_RESNET must name the weights"):
        cifar10_resnet.features()
