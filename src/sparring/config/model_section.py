"""Section `model`: where the network comes from, and which schedulers go with what it predicts.

Torch is not imported here.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import model_validator

from ..options import value_types
from ..options.sections import Section
from ..options.value_types import SCHEDULERS, Count, Place, Positive
from ..support.errors import UserError, did_you_mean
from ..support.home_folder import expanded

SCHEDULERS_OF = {
    "flow_prediction": value_types.FLOW_SCHEDULERS,
    "edm": value_types.EDM_SCHEDULERS,
}
"""Of the prediction types that need their own; the first is the default."""


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
    def _fits_together(self) -> Self:
        where = "model.pretrained_model_name_or_path"
        if self.pretrained_model_name_or_path is not None:
            if self.network is not None:
                raise ValueError(f"model: give either {where[6:]} or network, not both")
            if self.scheduler is not None:
                raise ValueError(
                    "model.scheduler comes with the pretrained model; leave it out (null)"
                )
            return self
        if self.lora is not None:
            raise ValueError(f"model.lora needs a trained model: {where}")
        if self.network is None:
            raise ValueError(
                "model.network is missing: describe the network ({_class_name: UNet2DModel, ...}) "
                f"or name a model in {where}"
            )
        if not isinstance(self.network.get("_class_name"), str):
            raise ValueError("model.network._class_name is missing: for example UNet2DModel or MLP")
        try:  # path/to/file.py:Class
            self.network["_class_name"] = expanded(self.network["_class_name"])
        except UserError as error:
            raise ValueError(f"model.network._class_name: {error}") from error
        self.prediction_type = self.prediction_type or "epsilon"
        self.learned_variance = bool(self.learned_variance)
        self.scheduler = self.scheduler or {}
        if "_class_name" not in self.scheduler:
            self.scheduler = {**_default_scheduler(self.prediction_type), **self.scheduler}
        _check_scheduler(self.scheduler, self.prediction_type)
        return self


def _default_scheduler(kind: str) -> dict[str, Any]:
    if kind in SCHEDULERS_OF:
        return {"_class_name": SCHEDULERS_OF[kind][0]}
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
    if said is not None and said != kind and name not in SCHEDULERS_OF["edm"]:
        raise ValueError(
            f"model.scheduler.prediction_type is {said!r} but model.prediction_type is {kind!r}; "
            "say it once, in model.prediction_type"
        )
    for special, schedulers in SCHEDULERS_OF.items():
        if (name in schedulers) != (kind == special):
            raise ValueError(
                f"model.scheduler {name} does not go with prediction_type {kind}: {special} needs "
                f"{schedulers[0]}, and that scheduler needs {special}"
            )
    if scheduler.get("rescale_betas_zero_snr") and kind == "epsilon":
        raise ValueError(
            "model.prediction_type epsilon cannot be learned with zero terminal SNR "
            "(model.scheduler.rescale_betas_zero_snr): at the last step x_t holds no signal; "
            "use prediction_type v_prediction"
        )
