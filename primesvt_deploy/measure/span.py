"""An expected quantity: the likely value, and the range it may well fall into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Span"]


@dataclass(frozen=True)
class Span:
    """A likely value between a low and a high one.

    Args:
        likely: what to plan with.
        low: if all goes well.
        high: if nothing does.
    """

    likely: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Span:
        """A value that is known."""
        return cls(value, value, value)

    @classmethod
    def total(cls, spans: Iterable[Span]) -> Span:
        """The sum of several; their ends are taken to come together."""
        found = list(spans)
        return cls(
            sum(span.likely for span in found),
            sum(span.low for span in found),
            sum(span.high for span in found),
        )

    def __add__(self, other: Span) -> Span:
        """The sum of both."""
        return Span.total((self, other))

    def __mul__(self, other: Span | float) -> Span:
        """The product of both, or of all three values with a number of at least 0."""
        by = other if isinstance(other, Span) else Span.exactly(other)
        return Span(self.likely * by.likely, self.low * by.low, self.high * by.high)

    def less(self, number: float) -> Span:
        """All three values less a number, none below 0."""
        return Span(*(max(0.0, value - number) for value in self._values))

    def at_least(self, other: Span) -> Span:
        """The larger of both, value by value."""
        pairs = zip(self._values, other._values, strict=True)
        return Span(*(max(pair) for pair in pairs))

    def beyond(self, other: Span) -> Span:
        """By how much it is larger than another, value by value; none below 0."""
        pairs = zip(self._values, other._values, strict=True)
        return Span(*(max(0.0, mine - others) for mine, others in pairs))

    @property
    def _values(self) -> tuple[float, float, float]:
        return self.likely, self.low, self.high

    @property
    def is_exact(self) -> bool:
        """Whether low and high are the likely value."""
        return self.low == self.likely == self.high

    def to_dict(self, decimals: int = 0) -> dict[str, float]:
        """Plain values for JSON, rounded."""
        values = {"likely": self.likely, "low": self.low, "high": self.high}
        return {name: round(value, decimals) for name, value in values.items()}
