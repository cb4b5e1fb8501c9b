"""One submission on its way over a connection: how far it came, and what is decided for whom."""

from __future__ import annotations

from relay.mail.outcome import Outcome, Stage
from relay.submission.smtp.content import Streamed
from relay.submission.smtp.replies import Step
from relay.submission.transport import Submission


class Transaction:
    """`lines`: its envelope and what each line expects. `outcomes`: None where nothing is decided yet."""

    __slots__ = (
        "after_refusal",
        "behind_dot",
        "body_begun",
        "dot_out",
        "file",
        "lines",
        "outcomes",
        "stage",
        "submission",
        "touched",
    )

    def __init__(self, submission: Submission, lines: list[tuple[bytes, Step]], file: Streamed | None) -> None:
        self.submission = submission
        self.lines = lines
        self.file = file
        self.outcomes: list[Outcome | None] = [None] * len(submission.recipients)
        self.stage = Stage.MAIL
        self.behind_dot = False  # its envelope went out behind the dot of the one before
        self.after_refusal = False  # and that one was refused
        self.touched = False  # the upstream answered something about it
        self.body_begun = False
        self.dot_out = False

    def fill(self, outcome: Outcome) -> None:
        """Decide whoever is undecided."""
        self.outcomes = [outcome if known is None else known for known in self.outcomes]

    def close(self) -> None:
        """Let go of the content."""
        if self.file is not None:
            self.file.close()
