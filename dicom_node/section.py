"""What every section of config.toml has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

MOST_DAYS = 36_500
"""A century: further off the calendar ends, and a time can neither be told nor waited for."""


class Section(BaseModel):
    """A section of config.toml: frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """`true` is a number to Python; in a configuration it is a slip."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("a number is wanted, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _no_time_beyond_the_calendar(cls, value: object, info: ValidationInfo) -> object:
        if str(info.field_name).endswith("_s") and isinstance(value, float) and value > MOST_DAYS * 86_400.0:
            raise ValueError("longer than a century; a number of seconds is wanted")
        return value
