"""Tokens: refused in a config, so that nothing which is written beside a run can hold one, and
masked in what is printed and in the command that a run records."""

import os
import re

_SECRETS = re.compile(
    r"(?<=://)[^/\s@'\"]+(?=@)"  # https://user:token@host
    r"|(?<=[?&])(?i:[\w-]*(?:token|key|secret|password|signature|credential)|sig|auth)=[^&\s'\"]+"
    r"|\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|sk-(?:proj-|ant-)?\w{20,}|AKIA[A-Z0-9]{16})"
)
_NAMES = re.compile(r"(TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD)$")
SHORTEST = 12  # characters of a variable's value that is taken for a secret


def masked(text: str) -> str:
    """The text with *** for what looks like a token of Hugging Face, GitHub, OpenAI or AWS, for
    credentials in addresses, and for the values of variables such as HF_TOKEN."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _NAMES.search(name):
            text = text.replace(value, "***")
    return _SECRETS.sub("***", text)
