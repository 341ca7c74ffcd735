"""How each figure of a report is computed, in short, with its source."""

from dataclasses import dataclass

from fundus_eval.report.formats import MINUS


@dataclass(frozen=True)
class Method:
    """A figure, how it comes about, and who described it."""

    name: str
    text: str
    sources: str


METHODS = (
    Method(
        "AUC",
        "Share of pairs, one positive and one negative, that the score puts in the right order; a tie "
        "counts one half. The interval is DeLong's; where patients are known, for clustered data.",
        "DeLong et al., Biometrics 1988; Sun and Xu, IEEE Signal Process. Lett. 2014; "
        "Obuchowski, Biometrics 1997",
    ),
    Method(
        "Bootstrap",
        "Bands, and the intervals of average precision, partial AUC, ECE, Brier score and mean AUC: "
        "percentiles over resamples, of patients where they are known. Where all resamples agree there is "
        "no interval: that is no certainty.",
        "Efron and Tibshirani, An Introduction to the Bootstrap, 1993",
    ),
    Method(
        "Partial AUC",
        "The area where specificity is high enough to be of use. Corrected: 0.5 is chance, 1 is perfect.",
        "McClish, Med. Decis. Making 1989",
    ),
    Method(
        "Average precision",
        "Mean precision over the positives in the order of their scores; chance is the share of positives.",
        "Davis and Goadrich, ICML 2006",
    ),
    Method(
        "Sensitivity, specificity",
        "Shares with score intervals; of several images of a patient, with the effective sample size. "
        "A score from the threshold upwards is positive.",
        "Wilson, J. Am. Stat. Assoc. 1927; Rao and Scott, Biometrics 1992; Youden, Cancer 1950",
    ),
    Method(
        "Failed files counted as wrong",
        "A file without a score helps no patient. The second way of counting takes each one of a "
        "known label for a wrong decision.",
        "Schuetz et al., BMJ 2012",
    ),
    Method(
        "Likelihood ratios, predictive values",
        "How much a decision changes the odds of the disease, and what it means where the disease is "
        "as frequent as stated. Where one of the four counts is 0, the limits are those with half an image "
        "more (ratios) or 1.92 images more (predictive values) in each.",
        "Simel et al., J. Clin. Epidemiol. 1991; Mercaldo et al., Stat. Med. 2007",
    ),
    Method(
        "Calibration",
        "Bins of equally many units. ECE: mean distance of probability and share over the bins. It is "
        "biased upwards, the more so the fewer units there are: beside it is its mean over simulated "
        "truths of independent units, of which the probabilities are right. Brier score: mean squared error, "
        f"= reliability {MINUS} resolution + uncertainty + what the bins blur. Intercept 0 and slope 1 are "
        "perfect; an intercept below 0 means too high on the whole, a slope below 1 too extreme. There are "
        "none where a probability is 0 or 1, and no slope where the classes are separated.",
        "Bröcker and Smith, Weather Forecast. 2007; Murphy, J. Appl. Meteorol. 1973; Cox, Biometrika 1958; "
        "Van Calster et al., J. Clin. Epidemiol. 2016",
    ),
    Method(
        "Net benefit",
        "True positives per unit, less false positives weighed by the odds of the threshold.",
        "Vickers and Elkin, Med. Decis. Making 2006",
    ),
    Method(
        "Shift",
        "Population stability index between the training's images and these, in one measure; above "
        "the limit it is more than chance and more than small.",
        "Siddiqi, Credit Risk Scorecards, 2006; Yurdakul, dissertation, Western Michigan University 2018",
    ),
)
