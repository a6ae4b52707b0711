"""What the figures mean, in sentences; every threshold stands here with its reason."""

from __future__ import annotations

from typing import Any

__all__ = ["METRIC_NAMES", "count", "findings", "limits", "number"]

METRIC_NAMES = {"auc": "AUC", "accuracy": "Accuracy", "r2": "R2"}

#: the project's own targets: shapes >= .98 and pairs >= .95 of the real-vs-real score
_GOOD_SHAPES, _GOOD_PAIRS = 0.98, 0.95
#: a smaller loss of one column is not worth a sentence
_VISIBLE = 0.01
#: series that differ from real ones so many times as much as held-out ones do are worth a note,
#: and a difference up to this none
_FAR, _NEAR = 2.0, {"autocorrelation": 0.02, "spectrum": 0.5}
#: utility of at least this share of real rows' is called close
_GOOD_UTILITY = 0.985
#: epsilons as commonly read: up to 1 strong, up to 10 a formal yet weaker bound
_STRONG_EPSILON, _WEAK_EPSILON = 1.0, 10.0


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure for people; a dash where it does not exist."""
    return "-" if value is None else f"{value:,.{digits}f}"


def count(value: int | float | None) -> str:
    """Return a count with thousands marked."""
    return "-" if value is None else f"{value:,.0f}"


def findings(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return ``(kind, sentence)`` pairs; kind is empty, "note" or "warn"."""
    return [
        *_fidelity(figures),
        *_series(figures),
        *_utility(figures),
        *_privacy(figures),
        *_closest(figures),
    ]


def _fidelity(figures: dict[str, Any]) -> list[tuple[str, str]]:
    fidelity = figures["fidelity"]
    said: list[tuple[str, str]] = []
    for name, good in (("shapes", _GOOD_SHAPES), ("pairs", _GOOD_PAIRS)):
        score, best = fidelity[name], fidelity["ceiling"][name]
        if score is None or not best:
            continue
        share = score / best
        what = "single columns" if name == "shapes" else "relations between two columns"
        verdict = "as good as the target" if share >= good else "short of the target"
        said.append(
            (
                "" if share >= good else "note",
                f"{what.capitalize()} reach {share:.1%} of what real rows score against other "
                f"real rows ({verdict} of {good:.0%}).",
            )
        )
    worst = min(
        (c for c in figures["columns"] if c["score"] is not None),
        key=lambda column: column["score"] - (column["ceiling"] or 1.0),
        default=None,
    )
    if worst is not None and (worst["ceiling"] or 1.0) - worst["score"] >= _VISIBLE:
        said.append(
            (
                "",
                f"The column that lost most is {worst['name']}: {worst['score']:.3f}, where real "
                f"rows score {number(worst['ceiling'])}.",
            )
        )
    elif worst is not None:
        said.append(("", f"Every column is within {_VISIBLE} of what real rows score."))
    return said


def _series(figures: dict[str, Any]) -> list[tuple[str, str]]:
    series = figures.get("series")
    if series is None or series["autocorrelation"] is None or series["spectrum"] is None:
        return []
    far = any(
        series[name] > _FAR * max(series[f"{name}_ceiling"] or 0.0, near)
        for name, near in _NEAR.items()
    )
    said = (
        f"Autocorrelations of synthetic series differ from real ones by "
        f"{series['autocorrelation']:.3f} on average, their spectra by {series['spectrum']:.1f} dB"
    )
    if series["autocorrelation_ceiling"] is not None and series["spectrum_ceiling"] is not None:
        said += (
            f"; those of held-out real series by {series['autocorrelation_ceiling']:.3f} and "
            f"{series['spectrum_ceiling']:.1f} dB"
        )
    return [("note" if far else "", f"{said}.")]


def _utility(figures: dict[str, Any]) -> list[tuple[str, str]]:
    utility = figures.get("utility")
    if utility is None:
        return []
    values = {score["kind"]: score["value"] for score in utility["scores"]}
    release, real = values.get("release"), values.get("real")
    metric, target = METRIC_NAMES[utility["metric"]], utility["target"]
    if release is None:
        return [("warn", f"No model for {target} could be trained on the synthetic rows.")]
    said: list[tuple[str, str]] = []
    if real:
        close = release >= _GOOD_UTILITY * real
        said.append(
            (
                "" if close else "note",
                f"A model for {target} trained on the synthetic rows reaches {metric} "
                f"{release:.3f}; trained on all real rows, which nobody in the fleet could, "
                f"{real:.3f}.",
            )
        )
    for kind, who in (("local", "one device alone (mean)"), ("federated", "the FedAvg classifier")):
        other = values.get(kind)
        if other is not None:
            ahead = release > other
            said.append(
                (
                    "" if ahead else "note",
                    f"That is {'more' if ahead else 'less'} than {who}: {other:.3f}.",
                )
            )
    return said


def _privacy(figures: dict[str, Any]) -> list[tuple[str, str]]:
    privacy = figures.get("privacy")
    if privacy is None:
        return [("warn", "No privacy statement came with these rows: assume there is none.")]
    epsilon = privacy.get("epsilon")
    if epsilon is None:
        return [("warn", "WITHOUT PRIVACY: nothing limits what these rows reveal.")]
    if epsilon <= _STRONG_EPSILON:
        strength = "a strong bound"
    elif epsilon <= _WEAK_EPSILON:
        strength = "a formal bound of moderate strength"
    else:
        strength = "a weak bound"
    return [
        (
            "" if epsilon <= _WEAK_EPSILON else "warn",
            f"One {privacy.get('unit', 'row')} more or less changes the odds of anything an "
            f"observer may conclude by at most e^{epsilon:.2f}, up to a chance of "
            f"{privacy.get('delta', 0):g}: {strength}.",
        )
    ]


def _closest(figures: dict[str, Any]) -> list[tuple[str, str]]:
    closest = figures["closest"]
    share, margin = closest["closer_to_training"], closest["margin"]
    if share - max(margin, 0.02) > 0.5:
        return [
            (
                "warn",
                f"{share:.1%} of synthetic rows are closer to rows trained on than to held-out "
                "rows; about 50 % is expected. The generator may repeat real rows.",
            )
        ]
    return [("", "Synthetic rows are no closer to rows trained on than to rows never seen.")]


def limits(figures: dict[str, Any]) -> list[str]:
    """Return what these figures do not show."""
    said = [
        "This page shows exact shares of real rows. It is for people who may see those rows; "
        "publish the release and its model card, not this page.",
        "Scores by column and by pair do not see relations of three or more columns; the utility "
        "figure sees some of them, for one target.",
        f"Fidelity is measured on {count(figures['fidelity']['rows_compared'])} rows of each side, "
        "drawn with a fixed seed; fewer rows give lower scores, for real rows too.",
    ]
    if not figures["holdout_given"]:
        which = "the last fifth of each series" if "series" in figures else "a fifth of the rows"
        said.append(
            f"No held-out rows were given: {which} was set aside here, and the "
            "generator may have learnt from them. Figures for closeness and utility are then too "
            "kind."
        )
    privacy = figures.get("privacy")
    if privacy is not None and privacy.get("epsilon") is not None:
        said.append(
            f"Privacy protects one {privacy.get('unit', 'row')}. Someone with many rows in the "
            "table is protected less, by up to that many times epsilon. Patterns shared by many "
            "rows are kept: that is the purpose."
        )
    if figures.get("fleet") is not None:
        said.append(
            "All devices ran on one machine, from a public table. Epsilon and bytes do not depend "
            "on that; times and memory do."
        )
    return said
