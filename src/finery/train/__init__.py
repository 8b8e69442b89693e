"""Training: the loop, its order, checkpoints and objectives. The package itself is the verb: `finery.train(config)`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finery.config.schema import Config
    from finery.run import Run
    from finery.train.progress import Console


class Verb(ModuleType):
    """Importing any module in here binds `finery.train` to this package, so the package must do what the name says."""

    def __call__(self, config: Config, console: Console | None = None) -> Run:
        from finery.train.start import train

        return train(config, console)


sys.modules[__name__].__class__ = Verb
