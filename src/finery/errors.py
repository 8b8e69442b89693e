"""The errors that a user may see. Each says what went wrong, where, and the way out; a traceback is for us alone.

FineryError
  ConfigError   a setting is wrong                     (exit code 2)
  DataError     a data file or a row is wrong          (exit code 2)
    RowError    one row can't be used; a ledger counts it
  ModelError    a model folder or name can't be used   (exit code 2)
  RunError      a run folder can't be used             (exit code 2)
  TrainingError training can't go on                   (exit code 1)
"""


class FineryError(Exception):
    """What went wrong in one line, with the place and the way out as lines of their own."""

    exit_code = 2

    def __init__(self, what: str, where: str = "", way_out: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.way_out = what, where, way_out

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:   {self.where}")
        if self.way_out:
            lines.append(f"  way out: {self.way_out}")
        return "\n".join(lines)


class ConfigError(FineryError):
    """A setting is unknown, has a wrong value, or contradicts another."""


class DataError(FineryError):
    """A data source can't be read or understood."""


class RowError(DataError):
    """One row can't be used. `reason` is the short, constant text under which the ledger counts it."""

    def __init__(self, reason: str, what: str = "", where: str = "", way_out: str = "") -> None:
        super().__init__(what or reason, where, way_out)
        self.reason = reason


class ModelError(FineryError):
    """A model can't be found, loaded or trained."""


class RunError(FineryError):
    """A run folder is in use, finished, damaged, or not one."""


class TrainingError(FineryError):
    """Training can't go on: a loss that isn't finite, a full disk, a failed self-check."""

    exit_code = 1
