"""What the page says: who is ranked with whom, the headline's numbers, the words for units."""

import json
from pathlib import Path

import pytest
from fake_runs import DETAIL, GAUSSIAN, PROTOCOL, figures, write_run

from sparring.report import ranking, tables, wording
from sparring.report.finding import Finding, find
from sparring.report.runs import as_command, missing, read_runs


def finding_of(*folders: Path) -> Finding:
    runs = read_runs([str(folder) for folder in folders])
    return find(runs, ranking.group_by_protocol(runs), ranking.choose_baseline(runs))


def rows_of(arguments: list[str]) -> dict[str, tables.Row]:
    runs = read_runs(arguments)
    ranked = [run.name for run in ranking.contenders(runs, ranking.choose_baseline(runs))]
    return {
        row.label: row for row in tables.figure_rows(ranking.group_by_protocol(runs)[0], ranked)
    }


def test_the_headline_states_both_figures_their_ratio_and_the_noise_that_is_left(demo_runs):
    finding = finding_of(*map(Path, demo_runs))
    assert finding.leader == "robust"
    assert finding.sentence == (
        "robust: Fréchet distance 31.2 against 88.0 for plain (×0.355), "
        "leftover noise 0.410 of plain’s."
    )
    assert finding.note == (
        "clean, trained on uncontaminated data, reaches 4.90. "
        "A resample of the reference itself: 2.13."
    )


def test_the_order_of_the_runs_does_not_choose_the_baseline(demo_runs):
    assert finding_of(*map(Path, reversed(demo_runs))).sentence.startswith("robust: Fréchet")


def test_a_robust_run_that_is_worse_is_said_to_be_worse(tmp_path):
    plain = write_run(tmp_path / "plain", None, GAUSSIAN, evaluation=figures(50.0, 0.1))
    worse = write_run(tmp_path / "worse", DETAIL, GAUSSIAN, evaluation=figures(75.0, 0.05))
    finding = finding_of(plain, worse)
    assert finding.leader == "plain"
    assert finding.sentence == (
        "No run beats plain. worse: Fréchet distance 75.0 against 50.0 for plain (×1.50), "
        "leftover noise 0.500 of plain’s."
    )


@pytest.mark.parametrize(("frechet", "overlap"), [(47.0, True), (44.0, False)])
def test_overlapping_intervals_are_said(tmp_path, frechet, overlap):
    plain = write_run(tmp_path / "plain", None, GAUSSIAN, evaluation=figures(50.0, 0.1))
    robust = write_run(tmp_path / "robust", DETAIL, GAUSSIAN, evaluation=figures(frechet, 0.05))
    finding = finding_of(plain, robust)
    assert ("overlap: the order is not settled" in finding.note) == overlap
    assert finding.leader == (None if overlap else "robust")
    row = rows_of([str(plain), str(robust)])["Fréchet distance"]
    assert [cell.is_best for cell in row.cells] == [False, not overlap]


def test_analytic_sets_lead_with_the_distance_and_state_the_spread(tmp_path):
    def plane(name: str, objective: dict | None, off: float, std: float, distance: float) -> Path:
        found = {
            "sliced_wasserstein": distance,
            "off_manifold_rms": off,
            "in_manifold_std": std,
            "in_manifold_std_true": 0.57735,
            "protocol": {"data": "plane", "n_fake": 8192},
        }
        return write_run(tmp_path / name, objective, GAUSSIAN, evaluation=found, images=False,
                         data={"name": "plane", "dim": 3})  # fmt: skip

    finding = finding_of(plane("plain", None, 0.08, 0.575, 0.05),
                         plane("detail", DETAIL, 0.01, 0.572, 0.0125))  # fmt: skip
    assert finding.sentence == (
        "detail: sliced Wasserstein distance 0.0125 against 0.0500 for plain (×0.250), "
        "distance off the manifold 0.125 of plain’s, spread 0.572 of a true 0.577."
    )


def test_unlike_protocols_are_named_and_not_ranked(tmp_path):
    plain = write_run(tmp_path / "plain", None, GAUSSIAN, evaluation=figures(88.0, 0.1))
    few = PROTOCOL | {"steps": 10, "n_fake": 512}
    robust = write_run(tmp_path / "robust", DETAIL, GAUSSIAN, evaluation=figures(31.0, 0.1, few))
    runs = read_runs([str(plain), str(robust)])
    groups = ranking.group_by_protocol(runs)
    assert [list(group.members) for group in groups] == [["plain"], ["robust"]]
    unlike = ranking.differences([group.protocol for group in groups])
    assert unlike == {"n_fake": ["1797", "512"], "steps": ["50", "10"]}
    finding = finding_of(plain, robust)
    assert finding.leader is None
    assert "31" not in finding.sentence
    assert "Not comparable with it: robust." in finding.note
    assert not any(cell.is_best for row in rows_of([str(plain), str(robust)]).values()
                   for cell in row.cells)  # fmt: skip


def test_other_seeds_and_versions_are_ranked_and_named(tmp_path):
    plain = write_run(tmp_path / "plain", None, GAUSSIAN, evaluation=figures(88.0, 0.1))
    seeded = PROTOCOL | {"seeds": {"evaluation": 0, "sampling": 1}}
    robust = write_run(tmp_path / "robust", DETAIL, GAUSSIAN, evaluation=figures(31, 0.1, seeded))
    groups = ranking.group_by_protocol(read_runs([str(plain), str(robust)]))
    assert len(groups) == 1
    assert groups[0].recorded == {"seeds.sampling": ["0", "1"]}
    assert finding_of(plain, robust).leader == "robust"


def test_the_protocol_that_ranks_most_runs_leads_the_page(tmp_path):
    plain = write_run(tmp_path / "plain", None, GAUSSIAN, evaluation=figures(88.0, 0.1))
    robust = write_run(tmp_path / "robust", DETAIL, GAUSSIAN, evaluation=figures(31.0, 0.1))
    clean = write_run(tmp_path / "clean", None, None, evaluation=figures(4, 0.1, {"steps": 9}))
    other = robust / "evaluation" / "other.json"
    other.write_text(json.dumps(figures(33.0, 0.1, {"steps": 9})))
    runs = read_runs([str(clean), str(robust), str(plain)])
    baseline = ranking.choose_baseline(runs)
    ranked = [run.name for run in ranking.contenders(runs, baseline)]
    groups = ranking.group_by_protocol(runs, ranked)
    assert [list(group.members) for group in groups] == [["robust", "plain"], ["clean", "robust"]]
    assert "31.0 against 88.0 for plain" in find(runs, groups, baseline).sentence


def test_without_figures_of_the_baseline_the_others_speak_for_themselves(tmp_path):
    plain = write_run(tmp_path / "plain", None, GAUSSIAN)
    robust = write_run(tmp_path / "robust", DETAIL, GAUSSIAN)
    clean = write_run(tmp_path / "clean", None, None, evaluation=figures(4.0, 0.1))
    finding = finding_of(plain, robust, clean)
    assert finding.leader is None
    assert finding.sentence == "clean: Fréchet distance 4.00 [3.80, 4.20], leftover noise 0.100."
    assert "Not comparable with it: plain, robust." in finding.note


def test_the_newest_file_of_a_protocol_counts_and_others_stay_in_the_list(tmp_path):
    import os

    run = write_run(tmp_path / "run", None, None, evaluation=figures(88.0, 0.1))
    newer = run / "evaluation" / "again.json"
    newer.write_text(json.dumps(figures(80.0, 0.1)))
    os.utime(run / "evaluation" / "figures.json", (1, 1))
    read = read_runs([str(run)])
    groups = ranking.group_by_protocol(read)
    assert groups[0].value("run", "frechet_distance") == 80.0
    shown = [tables.provenance(read[0], e, groups) for e in read[0].evaluations]
    assert [(p["file"], p["is_shown"]) for p in shown] == [
        ("evaluation/again.json", True), ("evaluation/figures.json", False),
    ]  # fmt: skip


def test_best_figures_are_marked_among_runs_on_the_same_data_only(demo_runs):
    rows = rows_of(demo_runs)  # clean has the best distance of all, on other data
    assert [c.is_best for c in rows["Fréchet distance"].cells] == [False, True, False]
    assert [c.detail for c in rows["Fréchet distance"].cells] == [
        "83.6 – 92.4", "29.6 – 32.8", "4.66 – 5.15",
    ]  # fmt: skip
    assert [c.is_best for c in rows["Recall"].cells] == [False] * 3  # all equal: none is best
    labels = list(rows)
    beside = labels.index("Fréchet distance") + 1
    assert labels[beside] == "… of a resample of the reference itself"
    assert [c.text for c in rows["… of images that calibrate it"].cells] == ["4.00"] * 3


def test_higher_is_better_where_it_is_and_spread_is_best_near_the_truth(tmp_path):
    one = figures(9, 0.1, recall=0.5, in_manifold_std=0.60, in_manifold_std_true=0.577)
    two = figures(9, 0.1, recall=0.7, in_manifold_std=0.57, in_manifold_std_true=0.577)
    runs = [write_run(tmp_path / name, None, None, evaluation=e) for name, e in
            (("one", one), ("two", two))]  # fmt: skip
    rows = rows_of([str(run) for run in runs])
    for label in ("Recall", "Spread in the manifold"):
        assert [c.is_best for c in rows[label].cells] == [False, True]


def test_figures_of_a_later_version_are_shown_under_their_own_name(tmp_path):
    run = write_run(tmp_path / "a", None, None, evaluation=figures(9, 0.1, new_score=0.25))
    assert [c.text for c in rows_of([str(run)])["new score"].cells] == ["0.250"]


def test_costs_are_copied_and_related_to_plain(demo_runs):
    runs = read_runs([demo_runs[1], demo_runs[0]])
    rows = {r.label: r for r in tables.cost_rows(runs, ranking.choose_baseline(runs))}
    assert [c.text for c in rows["Training time"].cells] == [
        "8\u00a0min 40\u00a0s", "4\u00a0min 52\u00a0s",
    ]  # fmt: skip
    assert [c.text for c in rows["… as a ratio to plain"].cells] == ["×1.78", "×1.00"]
    assert [c.text for c in rows["Images per second"].cells] == ["738.5", "1,315"]
    assert [c.text for c in rows["Parameters"].cells] == ["512,345", "512,345"]


def test_settings_lists_what_differs_and_nothing_else(demo_runs):
    rows = {r.label: [c.text for c in r.cells] for r in tables.config_rows(read_runs(demo_runs))}
    assert rows["objective.lam"] == ["–", "10.0", "–"]
    assert rows["contamination.sigma"] == ["0.2", "0.2", "–"]
    assert not {"training.seed", "data.name", "training.output_dir"} & rows.keys()


def test_contamination_is_told_from_the_manifest_and_else_from_the_config(tmp_path):
    run = write_run(tmp_path / "a", None, GAUSSIAN)
    (read,) = read_runs([str(run)])
    assert wording.describe_contamination(read) == (
        "90 % of the samples (1,293 of 1,437): gaussian, sigma 0.2 on the scale [0, 1], not clipped"
    )
    (run / "data" / "manifest.jsonl").unlink()
    (read,) = read_runs([str(run)])
    assert wording.describe_contamination(read) == (
        "90 % of the samples: gaussian, sigma 0.2, not clipped"
    )
    assert any("no contamination manifest" in sentence for sentence in missing(read))
    run = write_run(tmp_path / "b", None, GAUSSIAN | {"rate": 0})
    (run / "data" / "manifest.jsonl").unlink(missing_ok=True)
    (clean,) = read_runs([str(run)])
    assert clean.contamination == {}
    assert wording.describe_contamination(clean).endswith(", as they are")


def test_a_mixture_is_told_by_its_parts(tmp_path):
    parts = [{"kind": "gaussian", "sigma": [0.05, 0.35]}, {"kind": "jpeg", "quality": 10}]
    dirt = {"kind": "mixture", "rate": 0.9, "seed": 0, "clip": True, "parts": parts}
    (read,) = read_runs([str(write_run(tmp_path / "a", None, dirt))])
    assert wording.describe_contamination(read) == (
        "90 % of the samples (1,293 of 1,437): mixture in equal parts of gaussian sigma "
        "[0.05, 0.35]; jpeg quality 10, clipped to 8 bits"
    )


def test_what_is_missing_is_named_with_its_command(tmp_path):
    run = write_run(tmp_path / "my run", None, GAUSSIAN, images=False, finished=False)
    (run / "metrics.jsonl").unlink()
    (read,) = read_runs([str(run)])
    said = "\n".join(missing(read))
    assert f"run my run has no evaluation: `sparring evaluate '{run}'`" in said
    assert "did not finish" in said
    assert "training.resume_from_checkpoint=latest" in said
    assert "no loss curves" in said
    assert "no picture of its training data" in said


def test_nothing_is_missing_from_a_whole_run(demo_runs):
    assert [missing(run) for run in read_runs(demo_runs)] == [[], [], []]


def test_later_rows_of_a_step_count_and_a_cut_line_is_left_out(tmp_path):
    run = write_run(tmp_path / "a")
    rows = '{"step": 1, "loss": 5}\n{"step": 2, "loss": 4}\n{"step": 1, "loss": 3}\n{"step": 3, "lo'
    (run / "metrics.jsonl").write_text(rows)
    (read,) = read_runs([str(run)])
    assert read.metrics == [{"step": 1, "loss": 3}, {"step": 2, "loss": 4}]


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / a / "plain") for a in ("x", "y")]
    assert [run.name for run in read_runs([str(f) for f in folders])] == ["x/plain", "y/plain"]
    same = read_runs([str(folders[0]), str(folders[0])])
    assert [run.name for run in same] == ["plain (1)", "plain (2)"]


@pytest.mark.parametrize(("value", "text"), [
    (88.04, "88.0"), (4.934, "4.93"), (0.41, "0.410"), (0.0075, "0.0075"), (3.21e-5, "3.2e-05"),
    (1234.5, "1,234"), (1797, "1,797"), (0.0, "0"), (-0.5, "-0.500"), (None, "n/a"),
    (float("nan"), "n/a"), (True, "n/a"), ("12", "n/a"),
])  # fmt: skip
def test_numbers_as_text(value, text):
    assert wording.show(value) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4199, "0.42 s"), (38.2, "38 s"), (59.7, "1 min 00 s"), (292, "4 min 52 s"),
    (7500, "2 h 05 min"), (None, "n/a"),
])  # fmt: skip
def test_durations_as_text(seconds, text):
    assert wording.show_seconds(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(("recorded", "text"), [
    (["/x/bin/sparring", "train", "a b.yaml"], "sparring train 'a b.yaml'"),
    (["/x/sparring/__main__.py", "train", "a.yaml"], "sparring train a.yaml"),
    (["my_script.py"], "my_script.py"), ("sparring demo", "sparring demo"), (None, ""), ([], ""),
])  # fmt: skip
def test_recorded_commands_are_shown_as_typed(recorded, text):
    assert as_command(recorded) == text


def test_times_of_an_evaluation_are_costs_and_no_figures(demo_runs):
    assert not any("seconds" in label for label in rows_of(demo_runs))
    runs = read_runs(demo_runs)
    rows = {r.label: r for r in tables.cost_rows(runs, runs[0])}
    assert [c.text for c in rows["Sampling for its figures"].cells] == ["31\u00a0s"] * 3


@pytest.mark.parametrize(("found", "said"), [(0.42, "found 0.420"), (0.0, "found none")])
def test_the_noise_that_was_found_stands_beside_auto(tmp_path, found, said):
    folder = write_run(tmp_path / "robust", DETAIL, GAUSSIAN)
    with (folder / "metrics.jsonl").open("a") as file:
        row = {"step": 3010, "loss": 0.1, "noise_scale": found, "window": found}
        file.write(json.dumps(row) + "\n")
    (run,) = read_runs([str(folder)])
    words = wording.describe_objective(run)
    assert words.startswith("detail · lam 10")
    assert f"noise auto ({said}), window auto ({said}), weight 0.2" in words
