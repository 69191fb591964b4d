"""A diffusers pipeline for models that diffusers' own unconditional pipelines cannot sample.

This file is saved with such a model as `sparring_pipeline.py` and needs torch and diffusers only:

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipe(class_labels=[3, 8], guidance_scale=2.0, num_inference_steps=50).images

Classes are numbers, or names where the model knows them: class_labels=["cat", "dog"].
"""

import inspect
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class _SparringPipeline(DiffusionPipeline):
    """Class-conditional or unconditional sampling with any diffusers scheduler.

    num_classes: Classes of a class-conditional model, otherwise None.
    null_class: The label that stands for no class, for guidance, or None.
    class_names: Of the classes, in their order; None or empty where nobody knows them.
    absent_classes: Numbers of classes that were never trained on.
    height, width: Of the samples; None: what the network's `sample_size` says.
    kind, boundary: Of a consistency model, what it predicts and how its function is made of it.
    """

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: list[int] | list[str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images for the given classes, one each, or `batch_size` of the classes in turn.

        Args:
            batch_size: Number of images when class_labels is not given.
            class_labels: Numbers or names of classes, (B,).
            guidance_scale: w of output = null + w (conditional - null); 1 is no guidance.
            num_inference_steps: Steps of the scheduler.
            generator: One for the batch, or one per image.
            eta: Noise of DDIM's steps.
            output_type: "pil", "np" or "pt" ([0, 1]).
        """
        model = getattr(self, str(self.model_cpu_offload_seq))  # unet or transformer
        device, config = self._execution_device, dict(self.config)
        labels = null = None
        if config["num_classes"] is not None:
            if class_labels is None:
                absent = config["absent_classes"] or ()
                known = [i for i in range(config["num_classes"]) if i not in absent]
                class_labels = [known[i % len(known)] for i in range(batch_size)]
            elif not torch.is_tensor(class_labels):
                names, asked = config["class_names"] or (), class_labels
                class_labels = [names.index(one) if isinstance(one, str) else one for one in asked]
            labels = torch.as_tensor(class_labels, device=device, dtype=torch.long)
            batch_size = len(labels)
        if guidance_scale != 1.0:
            if labels is None or config["null_class"] is None:
                raise ValueError("guidance_scale needs a class-conditional model with a null class")
            null = torch.full_like(labels, config["null_class"])
        size = model.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        channels = model.config.in_channels
        shape = (batch_size, channels, config["height"] or height, config["width"] or width)

        steps = self._new_steps()
        steps.set_timesteps(num_inference_steps, device=device)
        step_arguments = inspect.signature(steps.step).parameters
        # where x0 is clipped, the noise that goes with the clipped one
        extra = {"generator": generator, "eta": eta, "use_clipped_model_output": True}
        extra = {key: value for key, value in extra.items() if key in step_arguments}
        learned = "learned" in str(steps.config.get("variance_type"))
        uses_variance = learned and type(steps).__name__.startswith("DDPM")

        x = randn_tensor(shape, generator=generator, device=device, dtype=model.dtype)
        x = x * getattr(steps, "init_noise_sigma", 1.0)
        condition = {} if labels is None else {"class_labels": labels}
        bar: Any = self.progress_bar
        for t in bar(steps.timesteps):
            scaled = steps.scale_model_input(x, t) if hasattr(steps, "scale_model_input") else x
            times = t.to(device).expand(batch_size)
            output = model(scaled, times, **condition, return_dict=False)[0]
            output, variance = output[:, :channels], output[:, channels:]
            if null is not None:
                without = model(scaled, times, class_labels=null, return_dict=False)[0]
                without = without[:, :channels]
                output = without + guidance_scale * (output - without)
            output = self._for_scheduler(steps, output, t, x)
            if uses_variance and variance.shape[1]:
                output = torch.cat([output, variance], dim=1)
            x = steps.step(output, t, x, **extra).prev_sample

        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _new_steps(self) -> Any:
        """The scheduler that makes the steps."""
        return self.scheduler

    def _for_scheduler(
        self, steps: Any, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        """The network's output about x at t, as that scheduler takes it."""
        return output


class SparringUNetPipeline(_SparringPipeline):
    """For a U-Net."""

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        num_classes: int | None = None,
        null_class: int | None = None,
        class_names: list[str] | None = None,
        absent_classes: list[int] | None = None,
        height: int | None = None,
        width: int | None = None,
        kind: str | None = None,
        boundary: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            num_classes=num_classes, null_class=null_class, class_names=class_names,
            absent_classes=absent_classes, height=height, width=width, kind=kind, boundary=boundary,
        )  # fmt: skip


class SparringTransformerPipeline(_SparringPipeline):
    """For a transformer such as DiT."""

    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: Any,
        scheduler: Any,
        num_classes: int | None = None,
        null_class: int | None = None,
        class_names: list[str] | None = None,
        absent_classes: list[int] | None = None,
        height: int | None = None,
        width: int | None = None,
        kind: str | None = None,
        boundary: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(
            num_classes=num_classes, null_class=null_class, class_names=class_names,
            absent_classes=absent_classes, height=height, width=width, kind=kind, boundary=boundary,
        )  # fmt: skip
