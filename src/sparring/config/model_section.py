"""Section `model`: where the network comes from, and which schedulers go with what it predicts.

Torch is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from ..options.sections import Section
from ..options.value_types import (
    EDM_SCHEDULERS,
    FLOW_SCHEDULERS,
    SCHEDULERS,
    Count,
    Place,
    Positive,
)
from ..support.errors import UserError, did_you_mean
from ..support.home_folder import expanded


class LoraSection(Section):
    """Small matrices that are trained in the network's place; see models/lora.py.

    Attributes:
        rank: Of the matrices.
        alpha: Their product is multiplied by alpha / rank; null: rank.
        target_modules: Ends of the names of the adapted layers; null: the layers of all attentions.
    """

    rank: Count = 4
    alpha: Positive | None = None
    target_modules: list[str] | None = None


class ModelSection(Section):
    """Where the network comes from: built from `network`, or loaded.

    Attributes:
        pretrained_model_name_or_path: A pipeline folder, a hub name or a run to start from.
        network: Instead of that, a config.json of diffusers: `{_class_name: UNet2DModel, ...}`,
            `{_class_name: MLP, ...}` or `path/to/file.py:Name`. What the data decide (channels,
            size) may be left out.
        prediction_type: What the network predicts; null: what the pretrained model says, else
            epsilon.
        learned_variance: Whether the network also predicts the variance, in twice the channels.
        class_conditional: Whether the network is told the class.
        scheduler: A scheduler_config.json of diffusers: the noise schedule; null: DDPM's with
            linear betas, or what the prediction type needs. It comes with a pretrained model.
        lora: Trains small matrices instead of the whole network; null: the whole network.
    """

    pretrained_model_name_or_path: Place | None = None
    network: dict[str, Any] | None = None
    prediction_type: (
        Literal["epsilon", "sample", "v_prediction", "flow_prediction", "edm"] | None
    ) = None
    learned_variance: bool | None = None
    class_conditional: bool = False
    scheduler: dict[str, Any] | None = None
    lora: LoraSection | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSection:
        if self.pretrained_model_name_or_path is not None:
            if self.network is not None:
                raise ValueError(
                    "model: give either pretrained_model_name_or_path or network, not both"
                )
            if self.scheduler is not None:
                raise ValueError(
                    "model.scheduler comes with the pretrained model; leave it out (null)"
                )
            return self
        if self.lora is not None:
            raise ValueError(
                "model.lora needs a trained model: model.pretrained_model_name_or_path"
            )
        if self.network is None:
            raise ValueError(
                "model.network is missing: describe the network ({_class_name: UNet2DModel, ...}) "
                "or name a model in model.pretrained_model_name_or_path"
            )
        if not isinstance(self.network.get("_class_name"), str):
            raise ValueError("model.network._class_name is missing: for example UNet2DModel or MLP")
        try:  # path/to/file.py:Class
            self.network["_class_name"] = expanded(self.network["_class_name"])
        except UserError as error:
            raise ValueError(f"model.network._class_name: {error}") from error
        kind = self.prediction_type or "epsilon"
        self.prediction_type = kind
        self.learned_variance = bool(self.learned_variance)
        scheduler = self.scheduler or {}
        if "_class_name" not in scheduler:
            scheduler = {**_default_scheduler(kind), **scheduler}
        _check_scheduler(scheduler, kind)
        self.scheduler = scheduler
        return self


def _default_scheduler(kind: str) -> dict[str, Any]:
    if kind == "flow_prediction":
        return {"_class_name": FLOW_SCHEDULERS[0]}
    if kind == "edm":
        return {"_class_name": EDM_SCHEDULERS[0]}
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    return {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, **betas}


def _check_scheduler(scheduler: Mapping[str, Any], kind: str) -> None:
    name = scheduler.get("_class_name")
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise ValueError(
            f"model.scheduler._class_name: unknown scheduler {name!r}"
            f"{did_you_mean(str(name), SCHEDULERS)}"
        )
    said = scheduler.get("prediction_type")
    if said is not None and said != kind and name not in EDM_SCHEDULERS:
        raise ValueError(
            f"model.scheduler.prediction_type is {said!r} but model.prediction_type is {kind!r}; "
            "say it once, in model.prediction_type"
        )
    if (name in FLOW_SCHEDULERS) != (kind == "flow_prediction"):
        raise ValueError(
            f"model.scheduler {name} does not go with prediction_type {kind}: "
            f"flow_prediction needs {FLOW_SCHEDULERS[0]}, and that scheduler needs flow_prediction"
        )
    if (name in EDM_SCHEDULERS) != (kind == "edm"):
        raise ValueError(
            f"model.scheduler {name} does not go with prediction_type {kind}: edm needs "
            f"{EDM_SCHEDULERS[0]}, and that scheduler needs edm"
        )
    if scheduler.get("rescale_betas_zero_snr") and kind == "epsilon":
        raise ValueError(
            "model.prediction_type epsilon cannot be learned with zero terminal SNR "
            "(model.scheduler.rescale_betas_zero_snr): at the last step x_t holds no signal; "
            "use prediction_type v_prediction"
        )
