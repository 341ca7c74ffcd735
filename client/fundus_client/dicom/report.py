"""What a bundle says about a photograph, as a structured report in the photograph's study.

PS3.16 TID 1500 in a Comprehensive 3D SR (PS3.3 A.35.13): a measurement group for each frame and label. Nobody
has verified it, and it says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from fundus_client.dicom.answers import Answer, answers, threshold_rule
from fundus_client.dicom.codes import (
    AT_OR_ABOVE,
    BELOW,
    CALIBRATED,
    COMMENT,
    EYE,
    FUNDUS_PHOTOGRAPHY,
    GRADABLE,
    LATERALITY,
    NO_SCORE,
    NO_UNITS,
    OUR_SCHEME,
    PROBABILITY,
    QUALITY,
    SPREAD,
    THRESHOLD,
    UNGRADABLE,
    disease,
    plain,
)
from fundus_client.dicom.evidence import MAKER, Reference, derived, object_uid
from fundus_core.acquisition import Laterality
from fundus_core.ensemble import EnsembleSpec
from fundus_core.rows import ScoreRow

_LONGEST = 1024  # characters of a text in a report


@dataclass(frozen=True)
class _Asked:
    """One label of one frame."""

    about: Reference
    row: ScoreRow
    spec: EnsembleSpec
    label: int
    has_frames: bool  # whether the object has several

    @property
    def name(self) -> str:
        return self.spec.labels[self.label]

    @property
    def frame(self) -> int:
        return self.row.acquisition.frame if self.row.acquisition else 1

    @property
    def answer(self) -> Answer | None:
        return answers(self.row, self.spec)[self.label] if self.row.probability else None

    @property
    def tracking_uid(self) -> str:
        part = f"{self.frame}/{self.name}"
        return object_uid(self.about.study_uid, self.about.sop_uid, self.spec.digest, "sr", part)

    @property
    def image(self) -> SourceImageForMeasurementGroup:
        frames = [self.frame] if self.has_frames else None
        return SourceImageForMeasurementGroup(self.about.sop_class_uid, self.about.sop_uid, frames)


def structured_report(
    source: Dataset, rows: Sequence[ScoreRow], spec: EnsembleSpec, when: datetime
) -> Dataset:
    """Return the report about one photograph, a dataset ready for `write_object`.

    It is complete where every frame has a score, else partial. The numbers are those of `scores.csv`.

    Args:
        source: header of the photograph.
        rows: one per frame, each with its acquisition.
        spec: of the bundle that answered.
        when: local time of the answer; the same time gives the same bytes.

    Raises:
        ImageError: `source` has no valid UIDs.
    """
    report, about = derived(source, "sr", spec, when), Reference.to(source)
    report.update(_content(about, rows, spec))
    report.CompletionFlag = "COMPLETE" if all(row.status == "scored" for row in rows) else "PARTIAL"
    report.PreliminaryFlag, report.VerificationFlag = "PRELIMINARY", "UNVERIFIED"
    report.CodingSchemeIdentificationSequence = [OUR_SCHEME]
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(about)]
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    return report


def _content(about: Reference, rows: Sequence[ScoreRow], spec: EnsembleSpec) -> Dataset:
    """Return the root of the tree of content. What only depends on the bundle is made once."""
    title, model = plain(spec.title), plain(f"{spec.name} {spec.version}")
    algorithm = _algorithm(plain(spec.name), plain(spec.version), _parameters(spec))
    groups = [
        _group(_Asked(about, row, spec, label, len(rows) > 1), algorithm)
        for row in rows
        for label in range(len(spec.labels))
    ]
    context = _context(title, model, spec.digest)
    return MeasurementReport(context, FUNDUS_PHOTOGRAPHY, groups)[0]


@lru_cache(maxsize=8)
def _context(title: str, model: str, digest: str) -> ObservationContext:
    """Say that a device observed this: a bundle, known by its digest."""
    device = DeviceObserverIdentifyingAttributes(
        uid=object_uid("", "", digest, "sr"),
        name=title,
        manufacturer_name=MAKER,
        model_name=model,
        serial_number=digest,
    )
    return ObservationContext(ObserverContext(codes.DCM.Device, device))


@lru_cache(maxsize=8)
def _algorithm(name: str, version: str, parameters: tuple[str, ...]) -> AlgorithmIdentification:
    return AlgorithmIdentification(name, version, parameters, manufacturer=MAKER)


def _parameters(spec: EnsembleSpec) -> tuple[str, ...]:
    """Return what decides a score, for people."""
    architectures = sorted({fold.architecture for fold in spec.folds})
    said = {
        "bundle digest": spec.digest,
        "folds": f"{len(spec.folds)} of {', '.join(architectures)}",
        "views": ", ".join(spec.views),
        "precision": spec.precision,
        "threshold by": threshold_rule(spec) or "unknown",
    }
    return tuple(plain(f"{name}: {value}", _LONGEST) for name, value in said.items())


@lru_cache(maxsize=4)
def _site(laterality: Laterality) -> FindingSite:
    """Return the eye, and which; it is never guessed."""
    return FindingSite(EYE, LATERALITY.get(laterality))


def _group(asked: _Asked, algorithm: AlgorithmIdentification) -> MeasurementsAndQualitativeEvaluations:
    """Return what is said about one label of one frame."""
    group = MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(asked.tracking_uid, plain(f"{asked.name}, frame {asked.frame}")),
        algorithm_id=algorithm,
        finding_sites=[_site(asked.row.acquisition.laterality if asked.row.acquisition else "")],
        measurements=list(_measurements(asked.answer)) if asked.answer else None,
        qualitative_evaluations=list(_evaluations(asked)),
        source_images=[asked.image],
    )
    if comment := asked.row.reason or asked.row.ungradable:
        text = TextContentItem(COMMENT, plain(comment, _LONGEST), RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(text)
    return group


def _measurements(answer: Answer) -> Iterator[Measurement]:
    yield Measurement(PROBABILITY, answer.probability, NO_UNITS)
    yield Measurement(THRESHOLD, answer.threshold, NO_UNITS)
    yield Measurement(SPREAD, answer.spread, NO_UNITS)
    if answer.calibrated is not None:
        yield Measurement(CALIBRATED, answer.calibrated, NO_UNITS)


def _evaluations(asked: _Asked) -> Iterator[QualitativeEvaluation]:
    yield QualitativeEvaluation(disease(asked.name), _decision(asked.answer))
    if asked.row.quality:
        yield QualitativeEvaluation(QUALITY, UNGRADABLE if asked.row.ungradable else GRADABLE)


def _decision(answer: Answer | None) -> CodedConcept:
    if answer is None:
        return NO_SCORE
    return AT_OR_ABOVE if answer.is_positive else BELOW


def _evidence(about: Reference) -> Dataset:
    """Return an item of PS3.3 C.17.2: the photograph, below its series and study."""
    study, series = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = about.series_uid, [about.item()]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = about.study_uid, [series]
    return study
