"""Runs as one HTML file: everything inline, nothing fetched, user text escaped."""

from collections.abc import Sequence
from typing import Any

import yaml

from .. import __version__
from ..evaluation.figure import Figure
from . import ranking, tables
from .attacks import attack_groups
from .charts import arrow_charts, cleaning_charts, diagnostics_charts, straightness_of
from .copies import copies_of
from .finding import Finding, find
from .page import N_STYLES, read_picture, template
from .plots import Chart, Curve
from .ranking import Group
from .runs import Run, is_number, missing
from .sweeps import sweeps_of
from .wording import describe_contamination, describe_objective, show, show_seconds, show_value


def render(runs: Sequence[Run], title: str | None = None) -> tuple[str, Finding]:
    """The page's HTML and the finding it opens with. The same runs give the same bytes.

    Args:
        runs: Runs to compare, in the order of the page; names must differ.
        title: The page's heading; the runs' names by default.

    Raises:
        UserError: where a picture of a run cannot be read.
    """
    baseline = ranking.choose_baseline(runs)
    ranked = [run.name for run in ranking.contenders(runs, baseline)]
    groups = ranking.group_by_protocol(runs, ranked)
    finding = find(runs, groups, baseline)
    styles = choose_styles(runs, baseline, finding.leader)
    drawn = groups[0].drawn if groups else []
    pictures = training_data([run for run in runs if run.contamination] or runs)
    html = template("template.html").render(
        title=title or _listed([run.name for run in runs]),
        finding=finding,
        runs=runs,
        styles=styles,
        bars=[b for f in drawn if (b := bars_of(groups[0], f, ranked, styles))],
        missing=[sentence for run in runs for sentence in missing(run)],
        training_data=pictures,
        cards=[card_of(run, groups, baseline, finding.leader, ranked, styles) for run in runs],
        columns=columns_for(len(pictures) + len(runs)),
        noise=noise_note(runs),
        pairs=pairs_of(runs, styles),
        groups=[(group, tables.figure_rows(group, ranked)) for group in groups],
        unlike=tables.difference_rows([group.protocol for group in groups]),
        full_protocol=lambda group: ranking.flat(next(iter(group.members.values())).protocol),
        ranked=ranked,
        attacks=attack_groups(runs, styles),
        copies=copies_of(runs, styles),
        sweeps=sweeps_of(runs),
        mismatch=mismatch_charts(runs, styles),
        cleaning=cleaning_charts(runs, styles),
        diagnostics=diagnostics_charts(runs, styles),
        straightness=straightness_of(runs),
        arrows=arrow_charts(runs),
        charts=charts_of(runs, styles),
        costs=tables.cost_rows(runs, baseline),
        settings=tables.config_rows(runs),
        provenance=[tables.provenance(run, e, groups) for run in runs for e in run.evaluations],
        configs={
            run.name: yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
            for run in runs
        },
        show_value=show_value,
        version=__version__,
    )
    return html, finding


def choose_styles(runs: Sequence[Run], baseline: Run, leader: str | None) -> dict[str, int]:
    """Line style of each run: the baseline is grey (0), another leader has the accent (1)."""
    styles = {baseline.name: 0}
    if leader is not None:
        styles.setdefault(leader, 1)
    rest = [run.name for run in runs if run.name not in styles]
    for n, name in enumerate(rest, 1 if leader is None else 2):
        styles[name] = n if n < N_STYLES else 2 + (n - 2) % (N_STYLES - 2)
    return styles


def training_data(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The pictures of the training samples, those that are equal and described equally once."""
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        if run.training_samples is not None:
            picture, what = read_picture(run.training_samples), describe_contamination(run)
            alike = {"picture": picture, "what": what, "runs": []}
            seen.setdefault((picture.uri, what), alike)["runs"].append(run.name)
    return list(seen.values())


def card_of(
    run: Run, groups: Sequence[Group], baseline: Run, leader: str | None,
    ranked: Sequence[str], styles: dict[str, int],
) -> dict[str, Any]:  # fmt: skip
    """A model's picture and leading figures: (label, number, is it the best) of the first group of
    evaluations that it belongs to."""
    group = next((g for g in groups if run.name in g.members), None)
    figures = []
    if group is not None:
        same = [name for name in group.members if name in ranked]
        for figure in group.drawn:
            if (value := group.value(run.name, figure.key)) is not None:
                is_best = ranking.best_of(group, same, figure) == run.name
                figures.append((figure.label, show(value), is_best))
    if is_number(seconds := run.training.get("train_seconds")):
        figures.append(("Training", show_seconds(seconds), False))
    role = "leads" if run.name == leader else "baseline" if run is baseline else ""
    if group is not None and group is not groups[0]:
        role = " · ".join(filter(None, [role, "another protocol"]))
    return {
        "name": run.name, "style": styles[run.name], "role": role,
        "objective": describe_objective(run), "data": describe_contamination(run),
        "picture": read_picture(run.samples) if run.samples else None,
        "needs_picture": not run.is_vector, "caption": sampling_words(run), "figures": figures,
    }  # fmt: skip


def pairs_of(runs: Sequence[Run], styles: dict[str, int]) -> list[dict[str, Any]]:
    """Before and after, of the runs that started from a model and drew samples on the way; with the
    step of the second grid and the prompts."""
    pairs = []
    for run in runs:
        if run.before is None or run.after is None or run.before == run.after:
            continue
        what = f"after step {run.after.stem.removeprefix('step-')}"
        if prompts := run.section("sampling").get("prompts"):
            what += ", prompts in turn: " + "; ".join(map(str, prompts))
        before, after = read_picture(run.before), read_picture(run.after)
        pairs.append({"name": run.name, "style": styles[run.name], "what": what,
                      "before": before, "after": after})  # fmt: skip
    return pairs


def sampling_words(run: Run) -> str:
    """'50 steps, ddim, noise seed 0': how the picture's samples were drawn, as recorded."""
    words = {"steps": "{} steps", "sampler": "{}", "seed": "noise seed {}"}
    return ", ".join(text.format(run.drawn[key]) for key, text in words.items() if key in run.drawn)


def noise_note(runs: Sequence[Run]) -> str:
    """Whether pictures at the same place of two grids began as the same noise, as recorded."""
    shown = [run for run in runs if run.samples is not None]
    if len(shown) < 2:
        return ""
    if any("seed" not in run.drawn for run in shown):
        return "Whether the grids start from the same noise was not recorded."
    unlike = ranking.differences([run.drawn for run in shown])
    said = "; ".join(f"{key}: {' / '.join(values)}" for key, values in unlike.items())
    if "seed" in unlike or "picture" in unlike:
        return f"The grids do not start from the same noise ({said})."
    same = "The same place in each grid started from the same noise"
    return f"{same}, but they were drawn in unlike ways ({said})." if said else f"{same}."


def bars_of(
    group: Group, figure: Figure, ranked: Sequence[str], styles: dict[str, int]
) -> dict[str, Any] | None:  # fmt: skip
    """A figure of all runs of a group as bars from 0, in percent of the longest, with the ends of
    its interval and the reference's own figure (`floor`); None where no run has it."""
    key = figure.key
    values = {name: v for name in group.members if (v := group.value(name, key)) is not None}
    floors = [f for name in values if (f := group.value(name, f"{key}_of_reference")) is not None]
    ends = [i[1] for name in values if (i := group.interval(name, key))]
    longest = max([*values.values(), *floors, *ends], default=0.0)
    if longest <= 0 or min(values.values()) < 0:
        return None
    best = ranking.best_of(group, [n for n in values if n in ranked], figure)

    def percent(value: float) -> float:
        return round(100 * max(value, 0.0) / longest, 2)

    bars = [
        {"name": name, "style": styles[name], "text": show(value), "width": percent(value),
         "interval": [percent(end) for end in group.interval(name, key) or ()],
         "is_best": name == best}
        for name, value in values.items()
    ]  # fmt: skip
    floor = {"floor": percent(floors[0]), "floor_text": show(floors[0])} if floors else {}
    return {"label": f"{figure.label}, {figure.words}", "bars": bars, "floor": None} | floor


def charts_of(runs: Sequence[Run], styles: dict[str, int]) -> list[Chart]:
    """One chart for the total loss, one for each named term, and the balance of two players."""
    terms = dict.fromkeys(
        key for run in runs for row in run.metrics for key in row
        if key in ("loss", "balance/overlap") or key.startswith("loss/")
    )  # fmt: skip
    charts = []
    for term in sorted(terms, key=lambda key: (key != "loss", key == "balance/overlap")):
        curves = []
        for run in runs:
            if rows := [row for row in run.metrics if is_number(row.get(term))]:
                curves.append(Curve.of(run.name, styles[run.name], rows, "step", term))
        names = {"loss": "Total loss", "balance/overlap": "Overlap of real and fake scores"}
        name = names.get(term) or f"Term: {term.removeprefix('loss/')}"
        title = f"{name} by step, {_listed([curve.name for curve in curves])}"
        charts.append(Chart.of(name, curves, x_label="step", y_label=term, title=title))
    return [chart for chart in charts if chart.svg]


def mismatch_charts(runs: Sequence[Run], styles: dict[str, int]) -> list[Chart]:
    """Distance of x_t while sampling to q(x_t) against sigma/alpha; one chart for each protocol,
    the newest curve of each run, the floor shaded up to its interval's upper end."""
    key, charts = "sliced_wasserstein", []
    found = [
        (ranking.comparable(one["protocol"]), run.name, one)
        for run in runs for evaluation in run.evaluations for one in evaluation.mismatch
    ]  # fmt: skip
    for protocol, group in sorted(ranking.side_by_side(found), key=lambda group: -len(group[1])):
        curves, floors = [], []
        for name, one in group.items():
            rows = [row for row in one["times"] if is_number(row["ratio"]) and row["ratio"] > 0]
            curves.append(Curve.of(name, styles[name], rows, "ratio", key))
            ends = [row[f"{key}_of_reference_interval"][1] for row in rows]
            floors.append(Curve("", 0, curves[-1].steps, ends))
        title = "{data}, {sampler}, {steps} steps, {n_fake} trajectories".format(**protocol)
        charts.append(Chart.of(
            title, curves, x_label="noise level sigma/alpha, log scale",
            y_label="distance to q(x_t)", x_is_log=True, floor=floors[0],
            title=f"Distance of x_t while sampling to q(x_t) by noise level, {title}",
        ))  # fmt: skip
    return charts


def columns_for(n_cards: int) -> int:
    """Columns of the gallery on a wide screen, so that the last row is not left almost empty."""
    return 3 if n_cards <= 3 else n_cards if n_cards <= 5 else 3 if n_cards in (6, 9) else 4


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
