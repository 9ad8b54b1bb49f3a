"""A record of violations of the rules between engine, backend and scheduler."""

from __future__ import annotations

__all__ = ["InvariantChecker"]


class InvariantChecker:
    """Records each violation of a rule.

    A violation cannot simply be raised, because the engine continues past the errors of a backend, as it should.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []

    def record_violation(self, what: str) -> None:
        """Record a violation."""
        self.violations.append(what)

    def check(self) -> None:
        """Raise if a rule was broken.

        Raises
        ------
        AssertionError
            The message lists every violation.
        """
        if self.violations:
            raise AssertionError("rules were broken: " + "; ".join(self.violations))
