"""Thousands of inputs as people have them, each with its right answer: is one misread in silence?

    python benchmarks/known_answers.py --n 3000 --seed 0
    python benchmarks/known_answers.py --n 200 --only tables tars

A domain is a file in benchmarks/answers/ with a dictionary KINDS of the kinds of input it makes:

    def captions_with_unquoted_commas(rng: random.Random, folder: Path) -> Verdict: ...

The function writes its input into the empty folder, has the library read it, and compares with the
answer that it knows from having made the input. It says `right("read")`, `right("left out")` or
`right("refused")`, or `wrong("what came out, and what should have")`. A case follows from (seed,
domain, number). What is wrong, and any exception that the function does not expect, is a failure.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
DOMAINS = sorted(path.stem for path in (HERE / "answers").glob("[a-z]*.py"))


class Verdict(NamedTuple):
    """What became of a case: read, left out, refused, WRONG or TRACEBACK; and the reason."""

    outcome: str
    reason: str = ""


Kind = Callable[[random.Random, Path], Verdict]


def right(outcome: str) -> Verdict:
    """The input was `read`, `left out` and listed, or `refused`, and that is the right answer."""
    assert outcome in ("read", "left out", "refused")
    return Verdict(outcome)


def wrong(reason: str) -> Verdict:
    """Something else came out than should have."""
    return Verdict("WRONG", reason)


def refuses(call: Callable[[], Any], *words: str) -> Verdict:
    """Right if the call ends in one line that holds each of these words."""
    from sparring.support.errors import UserError

    try:
        came = call()
    except UserError as error:
        line = str(error)
        if "\n" in line.strip():
            return wrong(f"refused in several lines: {line!r:.300}")
        missing = [word for word in words if word not in line]
        return (
            wrong(f"refused without naming {missing}: {line:.300}") if missing else right("refused")
        )
    return wrong(f"accepted, should be refused: {came!r:.200}")


def kinds_of(domain: str) -> Mapping[str, Kind]:
    return importlib.import_module(f"answers.{domain}").KINDS


def run_case(domain: str, seed: int, number: int) -> tuple[str, Verdict]:
    """The kind of a case and its verdict."""
    kinds = kinds_of(domain)
    kind = list(kinds)[number % len(kinds)]
    rng = random.Random(f"{seed} {domain} {number}")
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place).resolve() / "input", Path(place) / "cache"
        folder.mkdir()
        try:
            with mock.patch.dict(os.environ, {"SPARRING_CACHE": str(cache)}):
                return kind, kinds[kind](rng, folder)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            return kind, Verdict("TRACEBACK", f"{type(error).__name__} at {place}: {error}"[:500])


def campaign(
    n: int, seed: int, domains: Sequence[str] = DOMAINS, say: Callable[[str], None] = print
) -> dict[str, Counter[str]]:
    """Runs n cases of each domain; counts of outcomes by "domain: kind". Failures are said."""
    counts: dict[str, Counter[str]] = {}
    for domain in domains:
        for number in range(n):
            kind, verdict = run_case(domain, seed, number)
            counts.setdefault(f"{domain}: {kind}", Counter())[verdict.outcome] += 1
            if verdict.reason:
                say(f"{domain} {number} ({kind}) {verdict.outcome}: {verdict.reason}")
    return counts


def table(counts: Mapping[str, Counter[str]]) -> str:
    """Markdown: a row for each kind, and their sum."""
    columns = ("read", "left out", "refused", "WRONG", "TRACEBACK")
    total = sum(counts.values(), Counter[str]())
    rows = [*counts.items(), ("**all**", total)]
    lines = [f"| kind | cases | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for kind, each in rows:
        cells = " | ".join(str(each[one]) for one in columns)
        lines.append(f"| {kind} | {sum(each.values())} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=3000, help="cases in all, dealt to the domains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=DOMAINS, default=DOMAINS)
    args = parser.parse_args()
    logging.getLogger("sparring").addHandler(logging.NullHandler())  # remarks are answers here
    from sparring import __version__

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache  # before the library is imported
        counts = campaign(-(-args.n // len(args.only)), args.seed, args.only)
    print(table(counts))
    print(f"\nsparring {__version__}, seed {args.seed}, {time.monotonic() - began:.0f} s")
    sys.exit(any(each["WRONG"] or each["TRACEBACK"] for each in counts.values()))


if __name__ == "__main__":
    main()
