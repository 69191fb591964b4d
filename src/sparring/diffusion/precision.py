"""Short floats: what a run computes in, and which machines multiply them in hardware."""

from functools import lru_cache

import torch

SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of autocast by the words of `training.mixed_precision`; "no" has none."""
WORDS = {dtype: word for word, dtype in SHORT.items()}


@lru_cache
def multiplies(dtype: torch.dtype, device_type: str) -> bool:
    """Whether devices of a type ("cpu", "cuda") multiply matrices of this dtype in hardware, so
    that autocast is faster there and no emulation. On a CPU that is bf16 with AMX or AVX512-BF16.
    """
    if device_type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    can = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    has_units = can.get("amx_bf16", False) or can.get("avx512_bf16", False)
    return device_type == "cpu" and dtype == torch.bfloat16 and has_units
