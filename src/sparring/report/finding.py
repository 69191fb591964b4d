"""The page's first sentence: who leads, by how much, and what limits the claim."""

from collections.abc import Sequence
from dataclasses import dataclass

from .ranking import Group, contenders
from .runs import Run
from .wording import show


@dataclass(frozen=True)
class Finding:
    """The page's first sentence, what qualifies it, and the run that leads where one does."""

    sentence: str
    note: str = ""
    leader: str | None = None


def find(runs: Sequence[Run], groups: Sequence[Group], baseline: Run) -> Finding:
    """The headline, from the numbers alone: who leads, by how much, and what limits the claim."""
    if not groups:
        return Finding("No figures yet: evaluate the runs to compare them.")
    group = groups[0]
    names = [run.name for run in contenders(runs, baseline) if run.name in group.members]
    names = names or list(group.members)
    lead = next((f.key for f in group.drawn if f.decides and group.has(f.key, names)), None)
    left_out = [run.name for run in runs if run.name not in group.members]
    note = []
    if len(groups) > 1:
        note.append("Not all figures share a protocol; only like is ranked with like.")
    if lead is None:
        return Finding("The evaluations hold no figure to rank the runs by.", " ".join(note))
    rivals = [n for n in names if n != baseline.name and group.value(n, lead) is not None]
    if group.value(baseline.name, lead) is None or not rivals:
        scores = {name: v for name in names if (v := group.value(name, lead)) is not None}
        alone = min(scores, key=lambda name: scores[name])
        if left_out:
            note.append(f"Not comparable with it: {', '.join(left_out)}.")
        note.append(_floor(group, alone, lead))
        return Finding(f"{alone}: {_alone(group, alone, lead)}.", " ".join(filter(None, note)))

    best = min(rivals, key=lambda name: group.value(name, lead) or 0.0)
    sentence = f"{best}: {_against(group, best, baseline.name, lead)}."
    ahead = (group.value(best, lead) or 0.0) < (group.value(baseline.name, lead) or 0.0)
    is_settled = not group.overlap(best, baseline.name, lead)
    if is_settled and not ahead:
        sentence = f"No run beats {baseline.name}. {sentence}"
    if not is_settled:
        spoken = group.figures[lead].spoken
        note.append(f"Their intervals for the {spoken} overlap: the order is not settled.")
    if len(rivals) > 1 and ahead:
        note.insert(0, f"Best of {len(rivals) + 1} runs that are compared.")
    for run in runs:
        if run.name not in names and (value := group.value(run.name, lead)) is not None:
            data = "other training data" if run.contamination else "uncontaminated data"
            note.append(f"{run.name}, trained on {data}, reaches {show(value)}.")
    note.append(_floor(group, best, lead))
    leader = (best if ahead else baseline.name) if is_settled else None
    return Finding(sentence, " ".join(filter(None, note)), leader)


def _against(group: Group, name: str, baseline: str, lead: str) -> str:
    """'Fréchet distance 31.2 against 88.0 for plain (×0.35), leftover noise 0.41 of plain's'."""
    mine, other = group.value(name, lead) or 0.0, group.value(baseline, lead) or 0.0
    by = f" (×{show(mine / other)})" if other > 0 else ""
    said = [f"{group.figures[lead].spoken} {show(mine)} against {show(other)} for {baseline}{by}"]
    key = _left(group, name)
    if key is not None and key != lead and (other := group.value(baseline, key)):
        mine = group.value(name, key) or 0.0
        said.append(f"{group.figures[key].spoken} {show(mine / other)} of {baseline}’s")
    return ", ".join(said) + _spread(group, name)


def _alone(group: Group, name: str, lead: str) -> str:
    """'Fréchet distance 4.93 [4.66, 5.15], leftover noise 0.022'."""
    said = [f"{group.figures[lead].spoken} {show(group.value(name, lead))}"]
    if interval := group.interval(name, lead):
        said[0] += f" [{show(interval[0])}, {show(interval[1])}]"
    if (key := _left(group, name)) is not None and key != lead:
        said.append(f"{group.figures[key].spoken} {show(group.value(name, key))}")
    return ", ".join(said) + _spread(group, name)


def _left(group: Group, name: str) -> str | None:
    """What says how much noise is left: the first that was measured."""
    noise = (figure.key for figure in group.figures.values() if figure.is_noise)
    return next((key for key in noise if group.has(key, [name])), None)


def _spread(group: Group, name: str) -> str:
    spread, true = (group.value(name, f"in_manifold_std{end}") for end in ("", "_true"))
    return "" if None in (spread, true) else f", spread {show(spread)} of a true {show(true)}"


def _floor(group: Group, name: str, lead: str) -> str:
    floor = group.value(name, f"{lead}_of_reference")
    return "" if floor is None else f"A resample of the reference itself: {show(floor)}."
