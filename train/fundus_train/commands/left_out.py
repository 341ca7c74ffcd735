"""What `fundus-train fit` and `unseen` say of photographs that they could not use."""

from pathlib import Path

from fundus_core.console import say


def say_left_out(run: Path) -> None:
    """Name each photograph that a run has left out, with the reason in its dropped.csv."""
    from fundus_train.results import DROPPED, read_rows

    for image_id, reason in read_rows(run / DROPPED):
        say(f"left out {image_id}: {reason}")
