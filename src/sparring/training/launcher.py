"""What `accelerate launch` asks for, in its options or in the user's accelerate config.

Accelerate hands most of it on in the environment, and of the number of micro-batches and the
gradient's limit nothing, unless DeepSpeed is asked for: these are read from the command line of the
process that started this one. A setting that the run's config leaves unsaid takes accelerate's
value; one that says otherwise is refused, and so is what sparring cannot do. What accelerate
exports by default (no precision, no compiler, one micro-batch) asks for nothing.
"""

import os
from pathlib import Path
from typing import Any

import psutil

from ..config.schema import RunConfig
from ..support.errors import UserError

_ORIGIN = {
    "mixed_precision": "--mixed_precision",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "max_grad_norm": "--gradient_clipping",
    "compile": "--dynamo_backend",
    "sharding": "--use_fsdp",
}
"""By setting, the option of `accelerate launch`; a config of accelerate has the same words."""
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}
_OF_DEEPSPEED = (
    "zero_stage", "deepspeed_config_file", "offload_optimizer_device", "offload_param_device",
)  # fmt: skip


def as_launched(config: RunConfig) -> RunConfig:
    """The settings of a run, with those of accelerate where the config says nothing.

    UserError if the two contradict each other, or accelerate asks for what cannot be done.
    """
    config = config.model_copy(deep=True)
    training = config.training
    for name, value in asked_for().items():
        own = getattr(training, name)
        is_alike = own == value or (name, own) == ("sharding", "hsdp")
        if name in training.model_fields_set and not is_alike and own != "auto":
            ours = f"training.{name} is {str(own).lower()} in the run's config"
            theirs = f"accelerate asks for {str(value).lower()} ({_ORIGIN[name]})"
            raise UserError(f"{ours}, and {theirs}: leave one of the two out")
        if not is_alike:
            setattr(training, name, value)
    return config


def asked_for() -> dict[str, Any]:
    """What accelerate was told of section `training`; UserError for what sparring cannot do."""
    told, found, options = os.environ, {}, _options()
    refused = [what for variable, what in _REFUSED.items() if _is_set(variable)]
    refused += [f"--{x} of DeepSpeed" for x in _OF_DEEPSPEED if options.get(x) is not None]
    for what in refused:
        advice = "for models too large for one device there is training.sharding=fsdp2"
        why = f"accelerate asks for {what}, which sparring does not use"
        raise UserError(f"{why}: leave it out; {advice}")
    precision = told.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16", "fp16"):
        known = "sparring knows no, bf16 and fp16"
        raise UserError(f"accelerate asks for mixed precision {precision}: {known}")
    if precision != "no":
        found["mixed_precision"] = precision
    name = "gradient_accumulation_steps"
    steps = told.get(f"ACCELERATE_{name.upper()}") or options.get(name)
    if steps not in (None, "auto"):
        n_steps = int(steps) if str(steps).strip().isdecimal() else 0
        if n_steps < 1:
            asked = f"accelerate asks for {steps} gradient accumulation steps"
            raise UserError(f"{asked}: a whole number, at least 1")
        found |= {name: n_steps} if n_steps > 1 else {}
    if options.get("gradient_clipping") is not None:
        found["max_grad_norm"] = float(options["gradient_clipping"])
    if _compiles():
        found["compile"] = True
    if _is_set("ACCELERATE_USE_FSDP"):
        found["sharding"] = "fsdp2"
    return found


def _compiles() -> bool:
    """Whether to compile: with inductor and its defaults, or it is refused."""
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend == "no":
        return False
    mode = os.environ.get("ACCELERATE_DYNAMO_MODE", "default").lower()
    names = ("use_fullgraph", "use_dynamic", "use_regional_compilation")
    others = [f"--dynamo_{x}" for x in names if _is_set(f"ACCELERATE_DYNAMO_{x.upper()}")]
    if backend != "inductor" or mode not in ("default", "none", "") or others:
        what = backend if backend != "inductor" else (*others, f"--dynamo_mode {mode}")[0]
        ours = "inductor and its defaults (--dynamo_backend inductor, or training.compile=true)"
        raise UserError(f"accelerate asks to compile with {what}: sparring compiles with {ours}")
    return True


def on_cpu() -> bool:
    """Whether accelerate was told to leave GPUs alone (--cpu)."""
    return _is_set("ACCELERATE_USE_CPU")


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "y", "t", "on")


def _options() -> dict[str, Any]:
    """Of `accelerate launch`, where it started this process and can be asked."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return {}
    words = _words_of_launcher()
    if not words:
        return {}
    from accelerate.commands.launch import launch_command_parser

    return vars(launch_command_parser().parse_known_args(words)[0])


def _words_of_launcher() -> list[str]:
    """What followed `accelerate launch` on its command line."""
    try:
        ancestors = [process.cmdline() for process in psutil.Process().parents()[:3]]
    except psutil.Error:  # another user's process, or one that has ended
        return []
    for words in ancestors:
        for i, word in enumerate(words):
            before = Path(words[i - 1]).name if i else ""
            if (
                Path(word).name in ("accelerate-launch", "accelerate.commands.launch")
                or word.endswith("accelerate/commands/launch.py")
                or (word == "launch" and before in ("accelerate", "accelerate_cli.py"))
            ):
                return words[i + 1 :]
    return []


def without_launchers_own() -> dict[str, str]:
    """What the environment is to be while accelerate starts: what it was asked for is done here.

    Else it would shard and compile as well, and divide each loss by the number of micro-batches.
    """
    own = {
        "ACCELERATE_USE_FSDP": "false",
        "ACCELERATE_DYNAMO_BACKEND": "no",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    }
    return {name: value for name, value in own.items() if name in os.environ}
