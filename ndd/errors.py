"""The exceptions ndd raises on purpose.

    NddError                     exit code 1
    ├── UsageError               exit code 2: an argument or a setting is wrong
    │   └── ConfigError          an unknown key, a wrong type or a value out of range
    ├── InputError               exit code 1: the data handed in is at fault
    │   ├── DecodeError          one picture could not be read (becomes a row in `failures`)
    │   ├── SchemaError          a table lacks a column or holds a value it must not
    │   └── NothingReadable      exit code 3: not one picture could be read
    ├── ModelError               a model directory is missing, damaged or of another kind
    │   └── DigestMismatch       vectors or scores of two different models were about to be mixed
    └── StoreError               a store or an output directory cannot be used as asked
        ├── StaleOutput          a complete output with another key is in the way (`--overwrite`)
        ├── ConflictError        another picture is stored under this id
        └── StoreFull            no room left on the disk; what is stored can still be read

Every message names the value, the place and the remedy, in one line: the command line prints it as is.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ConflictError",
    "DecodeError",
    "DigestMismatch",
    "InputError",
    "ModelError",
    "NddError",
    "NothingReadable",
    "SchemaError",
    "StaleOutput",
    "StoreError",
    "StoreFull",
    "UsageError",
]


class NddError(Exception):
    """Base of everything raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(NddError):
    """An argument or a setting is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown key, a wrong type or a value out of range in a configuration."""


class InputError(NddError):
    """The data handed in is at fault."""


class DecodeError(InputError):
    """One picture could not be read.

    `stage` is where it failed (`open`, `header`, `decode`), `reason` a short phrase for a person.
    """

    def __init__(self, reason: str, *, stage: str = "decode") -> None:
        super().__init__(f"{stage}: {reason}")
        self.reason = reason
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call DecodeError("stage: reason") in the other process and lose `stage`.
        return (_rebuild_decode_error, (self.reason, self.stage))


def _rebuild_decode_error(reason: str, stage: str) -> DecodeError:
    return DecodeError(reason, stage=stage)


class SchemaError(InputError):
    """A table lacks a column or holds a value it must not."""


class NothingReadable(InputError):
    """Not one picture could be read."""

    exit_code = 3


class ModelError(NddError):
    """A model directory is missing, damaged or of another kind."""


class DigestMismatch(ModelError):
    """Vectors or scores of two different models were about to be mixed."""


class StoreError(NddError):
    """A store or an output directory cannot be used as asked."""


class StaleOutput(StoreError):
    """A complete output with another key is in the way."""


class ConflictError(StoreError):
    """Another picture is stored under this id."""


class StoreFull(StoreError):
    """No room left on the disk: nothing was written, and what is stored can still be read."""
