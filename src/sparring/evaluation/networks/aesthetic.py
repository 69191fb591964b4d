r"""LAION's improved aesthetic predictor: how much people like an image, from its CLIP embedding.

    score = MLP(x),   x a unit vector of CLIP ViT-L/14;   768 - 1024 - 128 - 64 - 16 - 1

There is nothing between the layers (the dropouts of training are off, and the published files were
trained without ReLUs), so the score is affine in x. It was fitted to ratings from 1 to 10.

Source: Schuhmann, improved-aesthetic-predictor, 2022.
"""

import pickle

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...support.errors import UserError
from ...support.home_folder import expanded_path
from .weights import existing, read_published

PLACE = "evaluation.aesthetic"
PUBLISHED = {
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0":
        " (sac+logos+ava1-l14-linearMSE.pth)",
    "390a3aafaf3b37d57148f9b22f30556de38343064b7d915acfa80d3812b4c9ff":
        " (ava+logos-l14-linearMSE.pth)",
}  # fmt: skip
"""SHA-256 of the files that are read with pickle's format."""
LAYERS = (0, 2, 4, 6, 7)  # places of the linear layers in `layers`; the others are dropouts


class Aesthetic(nn.Module):
    """The predictor with so many inputs and outputs of each layer, six numbers; the last is 1."""

    def __init__(self, sizes: tuple[int, ...] = (768, 1024, 128, 64, 16, 1)) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Identity() for _ in range(LAYERS[-1] + 1)))
        for place, n_in, n_out in zip(LAYERS, sizes[:-1], sizes[1:], strict=True):
            self.layers[place] = nn.Linear(n_in, n_out)

    @property
    def width(self) -> int:
        """Of the embeddings that it reads."""
        return self.layers[0].in_features  # pyright: ignore[reportReturnType]

    def forward(self, embeddings: Tensor) -> Tensor:
        """Scores (N,) of unit vectors (N, D)."""
        return self.layers(embeddings).squeeze(1)


def load_aesthetic(name: str) -> Aesthetic:
    """The predictor, float64, from a published .pth file, known by its checksum, or safetensors of
    any width with the same names. Raises UserError for a file without one."""
    path = existing(expanded_path(name), PLACE)
    is_plain = path.suffix == ".safetensors"
    try:
        state = load_file(path) if is_plain else read_published(path, PUBLISHED, PLACE)
        sizes = [state[f"layers.{place}.weight"].shape for place in LAYERS]
        head = Aesthetic((sizes[0][1], *(size[0] for size in sizes)))
        head.load_state_dict(state)
    except (KeyError, IndexError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{PLACE}: {path} is not the improved predictor ({reason})") from error
    except (OSError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{PLACE}: {path} cannot be read ({error})") from error
    if sizes[-1][0] != 1:
        raise UserError(f"{PLACE}: {path} gives {sizes[-1][0]} numbers an image instead of one")
    return head.double().eval().requires_grad_(False)
