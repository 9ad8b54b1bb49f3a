"""Who watches that the rules between engine, backend and scheduler are kept."""

from __future__ import annotations

__all__ = ["InvariantChecker"]


class InvariantChecker:
    """Notes each breach of a rule.

    A breach cannot simply be raised: the engine goes on past the errors of a backend, as it should.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []

    def record_violation(self, what: str) -> None:
        """Note a breach."""
        self.violations.append(what)

    def check(self) -> None:
        """Fail if a rule was broken.

        Raises
        ------
        AssertionError
            It names every breach.
        """
        if self.violations:
            raise AssertionError("rules were broken: " + "; ".join(self.violations))
