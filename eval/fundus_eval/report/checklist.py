"""Which items of two reporting guidelines a report fills, and which only the authors of a study can.

STARD-AI: Sounderajah et al., Nat. Med. 2025. CLAIM: Tejani et al., Radiol. Artif. Intell. 2024.
The topics are in short; the guidelines' own words count.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One item: its number, what it is about, and the sections of the report that fill it."""

    number: str
    topic: str
    sections: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guideline:
    """A guideline's items: those that the report fills, wholly or as far as tables can, and the others."""

    name: str
    filled: tuple[Item, ...]
    for_authors: tuple[Item, ...]


STARD_AI = Guideline(
    "STARD-AI 2025",
    filled=(
        Item("13", "software and its version (devices: authors)", ("made",)),
        Item("15a", "index test: which bundle, by digest", ("made",)),
        Item("15c", "cut-offs, and whether they were fixed before", ("decisions",)),
        Item("18", "methods of estimating accuracy", ("methods",)),
        Item("19", "indeterminate results", ("decisions", "images")),
        Item("20", "missing data", ("images",)),
        Item("21", "variability of accuracy", ("subgroups", "folds")),
        Item("23", "analysis of errors, bias and fairness, for the columns given", ("subgroups", "cases")),
        Item("24", "flow diagram", ("images",)),
        Item("29", "how the images differ from those of the training", ("shift",)),
        Item("30", "cross tabulation", ("decisions",)),
        Item("31", "estimates of accuracy with intervals", ("ranking", "decisions")),
        Item("40b", "outputs stored and open to audit", ("cases", "made")),
    ),
    for_authors=(
        Item("1 to 4", "title, abstract, background, objectives"),
        Item("5 to 6", "prospective or retrospective; ethics approval"),
        Item("7 to 10", "eligibility, identification, setting and dates, kind of series"),
        Item("11 to 12", "source of the data; who annotated them and how"),
        Item("14", "acquisition of the photographs"),
        Item("15b, 15d", "development of the index test; its intended user"),
        Item("16a to c", "reference standard, its rationale and cut-offs"),
        Item("17a to b", "blinding of readers and assessors"),
        Item("22", "intended sample size"),
        Item(
            "25 to 28", "characteristics, severity, alternative diagnoses, time interval, representativeness"
        ),
        Item("32", "adverse events"),
        Item("33 to 35", "limitations, implications for practice, ethics and fairness"),
        Item("36 to 40a", "registration, protocol, funding, commercial interests, data and code"),
    ),
)

CLAIM = Guideline(
    "CLAIM 2024",
    filled=(
        Item("12", "missing data", ("images",)),
        Item("23", "software and its version", ("made",)),
        Item("27", "ensembling: how far the folds agree", ("folds",)),
        Item("28", "metrics of performance", ("methods",)),
        Item("29", "statistical measures of uncertainty", ("methods",)),
        Item("30", "robustness and sensitivity analysis", ("subgroups", "decisions")),
        Item("35", "numbers included and excluded", ("images",)),
        Item("37", "performance on the test data", ("ranking", "calibration")),
        Item("38", "diagnostic performance and its precision", ("ranking", "decisions")),
        Item("39", "failure analysis of wrong cases", ("cases",)),
    ),
    for_authors=(
        Item("1 to 4", "title, abstract, background, aims"),
        Item("5 to 6", "study design and goal"),
        Item("7 to 11, 13", "data sources, criteria, preprocessing, subsets, de-identification, acquisition"),
        Item("14 to 18", "reference standard, annotators and their agreement"),
        Item("19 to 21", "partitions and whether patients straddle them; sample size"),
        Item("22, 24 to 26", "model, its initial weights, training, selection"),
        Item("31 to 34", "explainability, internal and external testing, trial registration"),
        Item("36", "demographic and clinical characteristics"),
        Item("40 to 44", "limitations, implications, protocol, availability, funding"),
    ),
)

GUIDELINES = (STARD_AI, CLAIM)

SECTION_TITLES = {
    "ranking": "Telling apart",
    "calibration": "Probabilities",
    "decisions": "Decisions",
    "subgroups": "Subgroups",
    "folds": "Agreement of the folds",
    "cases": "Image by image",
    "images": "From files to results",
    "shift": "Like the training?",
    "methods": "Methods",
    "made": "How it was made",
}
