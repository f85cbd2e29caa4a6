"""Each figure shows what a small study made by hand gave, and says in a sentence what it cannot show."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from plotly.graph_objects import Figure

from hpo.messages import Slice
from hpo.report.drawing import Scale, plotly_text
from hpo.report.figures import FIGURES
from hpo.report.hyperparameter_figures import varied
from hpo.report.report_data import ReportData
from tests.report.studies import confirming, frozen, look_at_test, report_data, scores, several, trial, verdict

IMAGE = "<img src=x onerror=alert(1)>"


def drawn(name: str, study: ReportData) -> Figure:
    """Return a figure, which can be written as JSON."""
    figure = FIGURES[name](study)
    assert isinstance(figure, Figure), figure
    json.loads(figure.to_json())
    return figure


def traces(figure: Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def annotations(figure: Figure) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def test_the_best_so_far_never_falls_and_stands_above_every_trial() -> None:
    figure = drawn("over_time", report_data(several(12)))
    best, completed = traces(figure)["best so far"], traces(figure)["completed trials"]
    assert list(best.y) == sorted(best.y)
    assert best.y[-1] == max(completed.y)
    assert list(completed.x) == sorted(completed.x)
    assert completed.x[0] == pytest.approx(1 / 6, abs=1e-5), "the first trial ends ten minutes after it began"
    assert figure.layout.xaxis.title.text == "hours since the first trial began"
    assert drawn("over_time", report_data(several(2))).layout.xaxis.title.text == "minutes since the first trial began"


def test_score_over_time_has_the_default_the_baselines_and_what_was_confirmed() -> None:
    found = traces(drawn("over_time", report_data(several(5), verdict=verdict())))
    ladder = [name.rpartition(" ")[0] for name in found][2:]
    assert ladder == ["the default", "majority class", "trial 3, confirmed"]
    assert {trace.visible for trace in list(found.values())[2:]} == {True}
    given = verdict()
    far_below = replace(given, baselines=(replace(given.baselines[0], score=-9.0),))
    last = traces(drawn("over_time", report_data(several(5), verdict=far_below)))["majority class -9"]
    assert last.visible == "legendonly", "beside it the trials could not be told apart"
    assert list(traces(drawn("over_time", report_data([trial(1, 0.5)])))) == ["completed trials", "best so far"]


def test_pruned_trials_are_fainter_than_the_others_and_the_one_to_take_stands_out() -> None:
    looks = traces(drawn("learning_curves", report_data([*several(4), trial(4, 0.3, state="PRUNED")])))
    assert looks["pruned or failed"].opacity < looks["completed"].opacity < looks["trial 1"].opacity
    assert len(looks["completed"].x) == 4 * 4 + 3, "four curves of four points, with gaps in between"
    assert looks["pruned or failed"].x == (25.0, 50.0)


def test_a_trial_with_one_evaluation_beside_others_with_more_is_a_point() -> None:
    """A line through one point is not seen."""
    full = report_data([trial(0, 0.5), trial(1, 0.6), trial(2, 0.7)])
    kept = tuple(one for one in full.history.evaluations if one.trial != 0 or one.rung == 250)
    figure = drawn("learning_curves", replace(full, history=replace(full.history, evaluations=kept)))
    [point] = [trace for trace in figure.data if trace.mode == "markers"]
    assert (point.x, point.showlegend) == ((25.0,), False)
    assert len(traces(figure)["completed"].x) == 1, "of two of that name the point came last"


def test_an_axis_of_scores_goes_no_further_than_the_metric_can() -> None:
    alike = report_data([trial(number, 1.0) for number in range(3)])
    for name in ("over_time", "learning_curves"):
        axis = drawn(name, alike).layout.yaxis
        assert (axis.minallowed, axis.maxallowed) == (pytest.approx(-0.02), pytest.approx(1.02))


def test_curves_of_folds_are_over_folds() -> None:
    one = report_data(several(2))
    configuration = dict(one.results.configuration) | {"evaluation": {"folds": 5}}
    figure = drawn("learning_curves", report_data(several(2), configuration=configuration))
    assert figure.layout.xaxis.title.text == "share of the folds that were scored, the last their mean, in %"


def test_curves_of_many_trials_are_few_traces() -> None:
    assert len(drawn("learning_curves", report_data(several(100))).data) == 2


def test_parallel_coordinates_have_an_axis_for_each_hyperparameter_and_the_score() -> None:
    figure = drawn("parallel_coordinates", report_data(several(8)))
    assert {"optimizer", "learning rate", "momentum", "macro f1", "adamw"} <= set(annotations(figure))
    lines = sum(trace.x.count(0) for trace in figure.data)
    assert lines == 8, "each trial crosses the first axis once"
    ends = [y for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True) if x == 3]
    assert (min(ends), max(ends)) == (0, 1)


def test_a_slice_has_only_the_trials_that_have_its_hyperparameter() -> None:
    optimizer, rate, momentum = drawn("slices", report_data(several(8))).data
    assert (len(optimizer.x), len(rate.x), len(momentum.x)) == (8, 8, 4)
    assert set(optimizer.x) == {0, 1}


def test_learning_rates_are_the_real_ones_each_optimizer_apart() -> None:
    by_optimizer = traces(drawn("learning_rate_by_optimizer", report_data(several(8))))
    assert set(by_optimizer["adamw"].x) == {1e-5, 1e-3}
    assert set(by_optimizer["momentum"].x) == {1e-4, 1e-2}


def test_the_hyperparameter_that_decides_is_the_most_important_and_few_trials_come_with_a_caution() -> None:
    trials = [trial(number, 0.9 if number % 4 < 2 else 0.1 + number / 1000) for number in range(24)]
    figure = drawn("importances", report_data(trials))
    assert figure.layout.yaxis.ticktext[0] == "learning rate"
    assert figure.layout.title.text == "From only 24 trials: read this as a hint."
    assert drawn("importances", report_data(several(60))).layout.title.text is None


def test_a_confusion_matrix_is_in_per_cent_of_each_label() -> None:
    [heat] = drawn("confusion_matrix", report_data([trial(0, 0.5)])).data
    assert [list(row) for row in heat.z] == [[100, 0], [0, 100]]
    one_class = trial(0, 0.5, validation=scores(0.5, one_class=True))
    [heat] = drawn("confusion_matrix", report_data([one_class])).data
    assert [list(row) for row in heat.z] == [[100, 0], [100, 0]]
    assert heat.text[1][0] == "yes predicted as no: 30 of 30"


def test_the_confusion_of_a_label_without_texts_is_none() -> None:
    empty = replace(scores(0.5), confusion=((0, 0), (1, 3)))
    [heat] = drawn("confusion_matrix", report_data([trial(0, 0.5, validation=empty)])).data
    assert [list(row) for row in heat.z] == [[0, 0], [25, 75]]


def test_slices_of_texts_are_of_the_test_split_or_the_mean_of_the_confirmation() -> None:
    def in_group(score: float) -> Slice:
        return Slice(by="group", name="mail", rows=9, score=score)

    trials = several(4)
    confirmation = (confirming(3, 0.9, in_group(0.4)), confirming(3, 0.9, in_group(0.6)), confirming(0, 0.9))
    study = report_data(trials, verdict=verdict(3), confirmation=confirmation)
    assert drawn("by_group", study).data[0].x == (0.5,)
    read = report_data(
        trials, verdict=verdict(3), confirmation=confirmation, test=(look_at_test(3, 0.8, in_group(0.7)),)
    )
    assert drawn("by_group", read).data[0].x == (0.7,)
    assert isinstance(FIGURES["by_length"](read), str), "none was taken by length"


def test_groups_are_scored_by_f1_whatever_the_objective_is() -> None:
    look = look_at_test(1, 0.8, Slice(by="group", name="mail", rows=20, score=0.7))
    scores = replace(look.held_out.scores, metric="accuracy", values={"accuracy": 0.95, "macro_f1": 0.8})
    look = replace(look, held_out=replace(look.held_out, scores=scores))
    figure = drawn("by_group", report_data(several(4), test=(look,)))
    assert figure.layout.xaxis.title.text == "macro f1"
    assert figure.layout.shapes[0].x0 == 0.8


def test_of_many_groups_the_largest_are_shown_the_worst_first() -> None:
    groups = [Slice(by="group", name=f"g{rows}", rows=rows, score=1 / rows) for rows in range(1, 100)]
    bars = drawn("by_group", report_data(several(4), test=(look_at_test(1, 0.8, *groups),)))
    assert len(bars.data[0].x) == 30
    assert bars.layout.yaxis.ticktext[0] == "g99 (99)"


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "trials",
    {
        "none": [],
        "one fails": [trial(0, state="FAIL", reason="RuntimeError")],
        "one runs": [trial(0, state="RUNNING")],
        "one": [trial(0, 0.5)],
        "two": [trial(0, 0.5), trial(1, 0.6)],
        "equal": [trial(number, 0.5) for number in range(8)],
        "nothing sampled": [trial(number, 0.5 + number / 100, parameters={}) for number in range(8)],
        "one value": [
            trial(number, 0.5 + number / 100, rate=1e-4, parameters={"learning_rate": 1e-4}) for number in range(8)
        ],
        "not trained by hpo": [trial(0, 0.5, configuration={}, parameters={}, validation=None, best_epoch=None)],
    }.items(),
    ids=lambda case: case[0],
)
def test_a_figure_is_drawn_or_says_why_not(name: str, trials: tuple[str, list[Any]]) -> None:
    figure = FIGURES[name](report_data(trials[1]))
    if isinstance(figure, str):
        assert figure.endswith("."), figure
    else:
        json.loads(figure.to_json())


@pytest.mark.parametrize("number", [0, 1, 3])
def test_importances_of_few_trials_say_how_many_are_needed(number: int) -> None:
    assert FIGURES["importances"](report_data(several(number))) == (
        f"Importances need at least 4 completed trials; there are {number}."
    )


def test_importances_that_cannot_be_computed_say_why() -> None:
    trials = frozen(several(5))
    trials[0].distributions["optimizer"] = FloatDistribution(0, 1)
    said = FIGURES["importances"](report_data(several(5), completed=trials))
    assert isinstance(said, str)
    assert said.startswith("Importances could not be computed from these trials: ")


def test_hostile_names_reach_plotly_as_text() -> None:
    labels = (IMAGE, "</script><script>alert(1)</script>", "a&amp;b<br>" * 20)
    values = [{"optimizer": label, "learning_rate": 10.0**-number} for number, label in enumerate(labels)]
    hostile = [
        trial(number, 0.5 + number / 10, validation=scores(0.5, labels), configuration=own, parameters=own)
        for number, own in enumerate(values)
    ]
    group = Slice(by="group", name=IMAGE, rows=3, score=0.5)
    shown = report_data(
        hostile, completed=(), test=(look_at_test(2, 0.7, group),), baselines={IMAGE: confirming(0, 0.5).held_out}
    )
    for name in FIGURES:
        figure = FIGURES[name](shown)
        assert isinstance(figure, str) or not markup(json.loads(figure.to_json())), name


def markup(content: Any) -> list[str]:
    """Return the texts of a figure that plotly would take for HTML; those of its template are its own."""
    if isinstance(content, str):
        return [content] if "<" in content else []
    if isinstance(content, Mapping):
        return [text for name, part in content.items() if name != "template" for text in markup(part)]
    return [text for part in content for text in markup(part)] if isinstance(content, list) else []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>", "&lt;b&gt;"),
        ("&lt;", "&amp;lt;"),
        ("a\nb\x00\u202ec", "a·b··c"),
        ("x" * 100, "x" * 39 + "…"),
        ("\ud800", "·"),
    ],
)
def test_text_is_shown_letter_by_letter(text: str, shown: str) -> None:
    assert plotly_text(text) == shown


@pytest.mark.parametrize(
    ("values", "axis", "ends"),
    [
        ([1, 2, 3], "linear", (0.0, 1.0)),
        ([1e-5, 1e-2], "log", (0.0, 1.0)),
        (["b", "a"], "linear", (1.0, 0.0)),
        ([3, None], "linear", (0.0, 1.0)),
        ([True, False], "linear", (1.0, 0.0)),
        ([2, 2], "linear", (0.5, 0.5)),
    ],
)
def test_values_of_any_kind_have_a_place_on_an_axis(values: list[object], axis: str, ends: tuple[float, float]) -> None:
    scale = Scale(values)
    assert scale.axis()["type"] == axis
    assert (scale.share(values[0]), scale.share(values[-1])) == ends


def test_what_was_sampled_and_did_not_differ_is_not_varied() -> None:
    assert varied([trial(0), trial(4)]) == ()
    assert varied([trial(0), trial(2)]) == ("learning_rate",)


def test_the_differences_of_a_verdict_have_an_interval_each_and_a_dot_for_each_seed_of_the_winner() -> None:
    figure = FIGURES["differences"](report_data(several(4), verdict=verdict(3)))
    assert not isinstance(figure, str)
    seeds, middles = figure.data
    assert list(middles.x) == pytest.approx([10.0])
    assert list(middles.error_x.array) == list(middles.error_x.arrayminus) == pytest.approx([4.0])
    assert list(seeds.x) == pytest.approx([9.0, 11.0]), "their mean is the difference"
    assert list(figure.layout.yaxis.ticktext) == ["the default"]
