"""Studies that were never measured: plausible numbers of a seeded generator."""

from dataclasses import replace
from typing import Any

import numpy as np

from fundus_eval.intervals import Interval
from fundus_eval.study import AtPrevalence, Flow, LabelStudy, Sample, Shift, Study
from fundus_eval.studying import study_label

CUT_OFFS = (("youden", 0.38), ("sensitivity 0.95", 0.17), ("specificity 0.95", 0.61))


def study(n: int = 578, labels: tuple[str, ...] = ("glaucoma",)) -> Study:
    """A study of N images in which nothing is missing, and nearly every kind of doubt is there."""
    failed = {"corrupt": 7, "too_many_pixels": 3, "empty": 2}
    return Study(
        flow=Flow(n + 30, failed, n + 18, 18, 5, 3, 7, n, n // 10, n),
        labels=tuple(label_study(n, label, seed) for seed, label in enumerate(labels)),
        auc_macro=Interval(0.921, 0.9, 0.942) if len(labels) > 1 else None,
        shift=(
            Shift("score:glaucoma", 0.04, 0.13, 0.21, 0.24),
            Shift("brightness", 0.42, 0.13, 0.81, 0.62),
            Shift("field_px", 0.08, 0.13, 1912.0, 1934.0),
            Shift("sharpness", 0.31, 0.13, 2.4, 1.9),
        ),
        made=dict(MADE),
    )


MADE: dict[str, Any] = {
    "scores": {"file": "scores.csv", "sha256": "5f1c" * 16},
    "labels": {"file": "labels.csv", "sha256": "0a9e" * 16},
    "bundle": {"name": "reference", "version": 3, "digest": "c0de" * 16},
    "options": {"unit": "image", "prevalences": [0.02, 0.1], "resamples": 2000, "seed": 0},
    "versions": {"fundus-triton": "0.1.0", "numpy": np.__version__},
    "time": "2026-11-25T18:00:00+00:00",
}


def label_study(n: int = 578, label: str = "glaucoma", seed: int = 0) -> LabelStudy:
    return study_label(
        sample(n, seed),
        label,
        "image",
        "mean",
        CUT_OFFS,
        n_failed=(3, 7),
        calibrator=lambda score: score**1.3,
        prevalences=(0.02, 0.1),
        subgroup_columns=("camera", "sex", "visit"),
        resamples=100,
        seed=seed,
    )


def sample(n: int, seed: int) -> Sample:
    """N images, two of each patient; no image of the visit "pilot" is positive."""
    random = np.random.default_rng(seed)
    truth = np.asarray(random.random(n) < 0.2, np.int8)
    latent = random.normal(2.9 * truth - 2.2, 1.4)[:, None] + random.normal(0, 0.6, (n, 4))
    folds = 1 / (1 + np.exp(-latent))
    pilot = (truth == 0) & (np.arange(n) % 9 == 0)
    return Sample(
        image_id=tuple(f"site-{place % 3}/img-{place:05d}.jpg" for place in range(n)),
        truth=truth,
        score=folds.mean(axis=1),
        fold_score=folds,
        cluster=np.arange(n) // 2,
        ungradable=np.arange(n) % 14 == 0,
        columns={
            "camera": tuple(random.choice(["Topcon NW400", "Canon CR-2", "Zeiss Visucam 500"], n)),
            "sex": tuple(random.choice(["female", "male"], n)),
            "visit": tuple(np.where(pilot, "pilot", "main")),
        },
        n_patients=-(-n // 2),
    )


def bare_study() -> Study:
    """A study in which everything is missing that may be: None, empty, not a number."""
    label = label_study(40)
    first = label.decisions[0]
    nothing = dict.fromkeys(("sensitivity", "specificity", "sensitivity_all", "specificity_all"))
    calibration = replace(label.calibration, intercept=None, slope=None, reliability=float("nan"))
    bare = replace(
        label,
        n_patients=None,
        auc_gradable=None,
        fold_auc=(),
        decisions=(
            replace(
                first,
                **nothing,
                lr_positive=Interval(float("inf"), 2.0, float("inf")),
                lr_negative=None,
                predictive=(AtPrevalence(0.02, None, None),),
            ),
        ),
        calibration=calibration,
        calibrated=None,
        subgroups=(),
        cases=tuple(replace(case, spread=None) for case in label.cases),
    )
    return Study(Flow(40, {}, 40, 0, 0, 0, 0, 40, 0, 40), (bare,), None, (), {})


HOSTILE = (
    "<script>document.title='taken'</script>.jpg",
    "\"'><img src=x onerror=document.title='taken'>.jpg",
    "a/very" + "/deep/folder" * 30 + "/image.jpg",
    "$\\frac{1}{2}$ {{ 7 * 7 }} {% raw %}.png",
    "not utf-8 \udcff \x08 \x00 \u202egpj.exe",
    "</table></main>&amp;&#0;.jpg",
)


def hostile_study() -> Study:
    """Three labels; ids, columns, values, labels, reasons and what was made are hostile texts."""
    whole = study(120, labels=("glaucoma", HOSTILE[0], HOSTILE[4]))
    return replace(
        whole,
        labels=tuple(_hostile_label(label) for label in whole.labels),
        flow=replace(whole.flow, failed=dict.fromkeys(HOSTILE, 2)),
        shift=(
            replace(whole.shift[0], measure=HOSTILE[1]),
            replace(whole.shift[1], measure=f"score:{HOSTILE[4]}"),
        ),
        made={text: {text: [text, None, 1.5]} for text in HOSTILE},
    )


def _hostile_label(label: LabelStudy) -> LabelStudy:
    ids = (*HOSTILE, *(f"{place}.jpg" for place in range(len(label.cases))))
    groups = [replace(label.subgroups[0], column=text, value=text) for text in HOSTILE]
    return replace(
        label,
        auc_method=HOSTILE[0],
        subgroups=tuple(groups),
        cases=tuple(replace(case, image_id=name) for case, name in zip(label.cases, ids, strict=False)),
    )
