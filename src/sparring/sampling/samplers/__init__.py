"""The samplers: diffusers' by our names, and files NAME.py that hold the one class called NAME.

A sampler steps as diffusers' schedulers do (`set_timesteps`, `step`, `config`). Its constructor
takes by name what it wants of what `make_scheduler` knows, such as `trained_betas`, `clip_sample`,
or `train_scheduler_config`, which holds everything. Its attributes:

    families    of the schedules that it follows: "vp", "flow", "edm"; a user's own may leave it out
    settings    of `Sampling`, that are set on it, with its `schedule`, once it is made

A new one is a new file here, a line of the table for a class of diffusers, or a file of the user's:
`sampling: {scheduler: path/to/mine.py:Mine}`. Torch is not imported here.
"""

import pkgutil
from typing import Any

OF_DIFFUSERS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "lcm": {"vp": ("LCMScheduler", {})},
    "ddpm": {"vp": ("DDPMScheduler", {})},
    "euler": {"vp": ("EulerDiscreteScheduler", {})},
    "euler_ancestral": {"vp": ("EulerAncestralDiscreteScheduler", {})},
    "heun": {"vp": ("HeunDiscreteScheduler", {})},
    "dpm2": {"vp": ("KDPM2DiscreteScheduler", {})},
    "dpm2_ancestral": {"vp": ("KDPM2AncestralDiscreteScheduler", {})},
    "lms": {"vp": ("LMSDiscreteScheduler", {})},
    "pndm": {"vp": ("PNDMScheduler", {"skip_prk_steps": True})},
    "deis": {"vp": ("DEISMultistepScheduler", {})},
    "dpmsolver++": {
        "vp": ("DPMSolverMultistepScheduler", {}),
        "flow": ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}),
        "edm": ("EDMDPMSolverMultistepScheduler", {}),
    },
    "dpmsolver++_sde": {
        "vp": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"})
    },
    "unipc": {
        "vp": ("UniPCMultistepScheduler", {}),
        "flow": ("UniPCMultistepScheduler", {"use_flow_sigmas": True}),
    },
    "flow_euler": {"flow": ("FlowMatchEulerDiscreteScheduler", {})},
    "flow_heun": {"flow": ("FlowMatchHeunDiscreteScheduler", {})},
    "euler_edm": {"edm": ("EDMEulerScheduler", {})},
}  # name -> family -> (class of diffusers, options)


def names() -> list[str]:
    """All of them. Their files are not imported, so this is quick."""
    return sorted([*OF_DIFFUSERS, *(module.name for module in pkgutil.iter_modules(__path__))])
