import subprocess
import sys

import pytest

from sparring.evaluation.protocol import GENERATION, differences, require_alike
from sparring.support.errors import UserError

MEASUREMENT = ("data", "n_fake", "k", "extractor_checksum", "a metric's own")
PROTOCOL = dict.fromkeys((*MEASUREMENT, *GENERATION), 1) | {"seeds": {"sampling": 0}}


@pytest.mark.parametrize("key", [*MEASUREMENT, *GENERATION])
def test_every_difference_is_named(key):
    other = PROTOCOL | {key: 2}
    assert differences(PROTOCOL, other) == [f"{key}: 1 and 2"]
    with pytest.raises(UserError, match=rf"a and b cannot be compared \({key}: 1 and 2\)"):
        require_alike({"a": PROTOCOL, "b": other})


def test_a_missing_entry_is_a_difference():
    without = {key: value for key, value in PROTOCOL.items() if key != "extractor_checksum"}
    assert differences(PROTOCOL, without) == ["extractor_checksum: 1 and not said"]


def test_seeds_and_versions_may_differ():
    other = PROTOCOL | {"seeds": {"sampling": 1}, "versions": {"torch": "9"}}
    assert differences(PROTOCOL, other) == []
    require_alike({"a": PROTOCOL, "b": other})


def test_sampling_may_be_what_is_compared_but_never_the_measurement():
    other = PROTOCOL | {"steps": 2, "n_fake": 2}
    assert differences(PROTOCOL, other, sampling=False) == ["n_fake: 1 and 2"]
    require_alike({"a": PROTOCOL, "b": PROTOCOL | {"steps": 2}}, sampling=False)
    with pytest.raises(UserError, match="n_fake"):
        require_alike({"a": PROTOCOL, "b": other}, sampling=False)


def test_the_third_model_is_compared_too():
    with pytest.raises(UserError, match="a and c cannot be compared"):
        require_alike({"a": PROTOCOL, "b": PROTOCOL, "c": PROTOCOL | {"k": 3}})


def test_reading_protocols_needs_no_torch():
    code = "import sys, sparring.evaluation.protocol; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
