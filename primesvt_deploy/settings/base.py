"""Settings that check themselves, and show only what is not the default."""

from __future__ import annotations

from dataclasses import fields

from primesvt_deploy.edge.field_types import check_field_types
from primesvt_deploy.errors import SettingsError

__all__ = ["Brief", "check_seed"]

_MOST_SEED = 2**63 - 1
"""Integers of torch and of files of settings have 64 bits."""


class Brief:
    """Base of settings that show only those that are not the default."""

    def __repr__(self) -> str:
        """The call that makes them."""
        given = [
            f"{field.name}={value!r}"
            for field in fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def check_types(self) -> None:
        """Refuse a field's value of another type than the field."""
        try:
            check_field_types(self)
        except ValueError as error:
            raise SettingsError(str(error)) from error


def check_seed(seed: int) -> None:
    """Refuse a seed of more than 64 bits."""
    if seed > _MOST_SEED:
        raise SettingsError("seed has more than 64 bits: expected 0 to 2^63 - 1; change --seed")
