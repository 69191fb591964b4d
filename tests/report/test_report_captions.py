"""The rows of captioned samples in the figure table."""

from fake_runs import GAUSSIAN, PROTOCOL, figures, write_run

from sparring.report import ranking, tables
from sparring.report.runs import read_runs

JUDGES = {
    "clip": {"name": "openai/clip-vit-large-patch14", "checksum": "12ab", "resize": "short side"},
    "captions": "34cd",
}


def test_scores_rank_by_more_and_their_floor_is_of_pairs(tmp_path):
    def run(name, score, cmmd, **judges):
        found = {"clip_score": score, "clip_score_interval": [score - 0.1, score + 0.1],
                 "clip_score_of_reference": 31.0, "cmmd": cmmd,
                 "cmmd_of_reference": 0.02}  # fmt: skip
        evaluation = figures(50.0, 0.1, PROTOCOL | JUDGES | judges, **found)
        return write_run(tmp_path / name, None, GAUSSIAN, evaluation=evaluation)

    folders = [run("low", 25.0, 0.9), run("high", 28.0, 0.6)]
    runs = read_runs([str(folder) for folder in folders])
    (group,) = ranking.group_by_protocol(runs)
    rows = tables.figure_rows(group, ["low", "high"])
    labels = [row.label for row in rows]
    for label, below in [
        ("CLIP score", "… of the reference's own images and captions"),
        ("CMMD", "… of a resample of the reference itself"),
    ]:
        at = labels.index(label)
        assert [cell.is_best for cell in rows[at].cells] == [False, True]
        assert labels[at + 1] == below
    other = run("other", 29.0, 0.5, captions="56ef")
    runs = read_runs([*map(str, folders), str(other)])
    assert len(ranking.group_by_protocol(runs)) == 2
