"""How samples are drawn: one object, made once and passed whole. Torch is not imported here."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from ..options.sections import check_options, options_of, section_of
from ..options.value_types import Count, NotNegative, Place, Positive, Share
from ..support.errors import did_you_mean
from . import samplers


def _check_sampler(name: str) -> str:
    known = samplers.names()
    if name not in known and not name.endswith("Scheduler") and ".py:" not in name:
        raise ValueError(f"unknown sampler {name!r}{did_you_mean(name.lower(), known)}")
    return name


SamplerName = Annotated[Place, AfterValidator(_check_sampler)]
"""One of ours, the name of a scheduler's class in diffusers, or `path/to/file.py:Name`."""


@dataclass(frozen=True)
class Sampling:
    """What a sampler is told. Section `sampling` of a config has these keys, and `n_images`.

    Attributes:
        scheduler: A sampler's name (ddim, ddpm, euler, heun, dpmsolver++, unipc, flow_euler,
            euler_edm, ...), a class name of diffusers, `path/to/file.py:Name`, a scheduler object,
            which is used as it is, or None for the default of the model's schedule: ddim,
            flow_euler, euler_edm; of a consistency model consistency, or lcm if it is latent.
        num_inference_steps: Steps of the sampler (Heun calls the model twice a step).
        eta: Noise of DDIM's steps, 0 deterministic, 1 as much as DDPM.
        stop_ratio: ddim only: the last step starts at this sigma/alpha and ends in the model's x0.
            A plain model stopped at the size of the contamination is the training-free way to
            less of it. None goes down to the grid's last time.
        grid_power: ddim only: above 1 the steps are denser towards the data, where a smoothed
            model does its work; 1.5 with stop_ratio at half the noise is good for 10 steps.
        ratios: consistency only: noise levels sigma/alpha of the steps, falling.
        clip_sample: Clip the estimate of x0 to [-1, 1] in each step. None: true for images of
            eps-, x0- and v-models where the sampler can, false otherwise. DDIM's step then takes
            the noise that goes with the clipped x0, as OpenAI's code does and diffusers' pipelines
            by default do not: with a noise of another x0 the step leaves the path.
        guidance_scale: w of classifier-free guidance, output = null + w (conditional - null);
            1 is none. Needs a condition and the denoiser's null condition; a network with a
            guidance embedding is told the scale instead.
        eps_scale: The estimate of the noise is divided by this; a little above 1 corrects exposure
            bias (ADM-ES, Ning et al. 2024, eq. 9). Not for flow models.
        prompts: Of a text-to-image model: sample i shows prompt i mod their number. None: the empty
            prompt, unless there is another condition.
        batch_size: Samples per call of the network; changes speed and memory only.
        seed: Sample i follows from (seed, i).
        scheduler_options: Further arguments of the sampler's class, such as
            {"use_karras_sigmas": True} or {"timestep_spacing": "leading"}.
    """

    scheduler: Any = None
    num_inference_steps: Count = 50
    eta: Share = 0.0
    stop_ratio: Positive | None = None
    grid_power: Positive = 1.0
    ratios: list[Positive] | None = None
    clip_sample: bool | None = None
    guidance_scale: NotNegative = 1.0
    eps_scale: Positive = 1.0
    prompts: list[str] | None = None
    batch_size: Count = 256
    seed: int = 0
    scheduler_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_options(type(self), vars(self))


_KEYS = options_of(Sampling)
del _KEYS["scheduler_options"]  # of Python only


class SamplingSection(section_of(_KEYS, "Sampling")):
    """Section sampling of a config: the fields of `Sampling`.

    Attributes:
        n_images: Samples of a grid, and of `sparring sample`.
    """

    scheduler: SamplerName | None = None
    n_images: Count = 64

    @property
    def settings(self) -> Sampling:
        return Sampling(**self.model_dump(exclude={"n_images"}))
