"""A diffusers pipeline for consistency models, as multistep consistency sampling draws them.

It is saved with such a model, together with the formulas it needs, as `sparring_pipeline.py`:

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipe(batch_size=16, num_inference_steps=2).images
"""

from typing import Any

from torch import Tensor

from ..diffusion.parametrization import KINDS, Prediction, edm_pair
from ..diffusion.schedules import EDMSchedule
from .pipeline import SparringTransformerPipeline, SparringUNetPipeline
from .samplers.consistency import ConsistencyScheduler


class ConsistencySampling:
    """Draws x0 = f(x_t, t) and goes back to less noise; see `ConsistencyScheduler`.
    The saved scheduler says which noise the model was trained with; `kind` what it predicts."""

    def _new_steps(self: Any) -> Any:
        words = dict(self.config)
        scheduler = {"_class_name": type(self.scheduler).__name__, **self.scheduler.config}
        clip_sample = words["kind"] in ("eps", "x0", "v")
        return ConsistencyScheduler(scheduler, words["boundary"], None, clip_sample)

    def _for_scheduler(self: Any, steps: Any, output: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The network's estimate of x0."""
        schedule, kind = steps.schedule, self.config["kind"]
        alpha, sigma = schedule.at(t.expand(len(x)), like=x)
        if isinstance(schedule, EDMSchedule):
            a, b = edm_pair(alpha, sigma, schedule.sigma_data)
            a, b = (-a, -b) if kind == "edm_v" else (a, b)
        else:
            a, b = KINDS[kind](alpha, sigma)
        return Prediction(x, output, alpha, sigma, a, b).x0


class ConsistencyUNetPipeline(ConsistencySampling, SparringUNetPipeline):
    """For a U-Net."""


class ConsistencyTransformerPipeline(ConsistencySampling, SparringTransformerPipeline):
    """For a transformer such as DiT."""
