"""A package of `late_packages` is run when a name of it is wanted, and then has all of them."""

import subprocess
import sys

import pytest

from sparring.support.late_packages import LATE

CODE = """
import sys
from sparring.support.late_packages import leave_until_asked_for
leave_until_asked_for()
from diffusers import UNet2DModel
assert "diffusers.models.transformers.dual_transformer_2d" in sys.modules
assert "diffusers.models.transformers.transformer_sd3" not in sys.modules
assert not {"diffusers.loaders", "peft", "scipy.stats"} & set(sys.modules)
ASK
assert SD3Transformer2DModel.__module__ == "diffusers.models.transformers.transformer_sd3"
import diffusers.models.transformers as package
assert package is sys.modules["diffusers.models.transformers"]
from diffusers.hooks import HookRegistry
from diffusers.models.unets import UNet2DConditionModel
"""
WAYS = (
    "from diffusers.models.transformers import SD3Transformer2DModel",
    "from diffusers.models.transformers import *",
    "from diffusers import SD3Transformer2DModel",
    "import diffusers.models.transformers as it; SD3Transformer2DModel = it.SD3Transformer2DModel",
)


@pytest.mark.parametrize("ask", WAYS)
def test_a_late_package_is_run_when_a_name_of_it_is_wanted(ask):
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("ASK", ask)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_name_that_a_late_package_lacks_is_an_import_error():
    code = (
        "from sparring.support.late_packages import leave_until_asked_for\n"
        "leave_until_asked_for()\n"
        "try: from diffusers.models.transformers import Nothing\n"
        "except ImportError: pass\n"
        "else: raise SystemExit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_late_packages_are_there():
    """Else diffusers has moved them, and nothing is spared any more."""
    from importlib.util import find_spec

    assert all(find_spec(name) is not None for name in LATE)
