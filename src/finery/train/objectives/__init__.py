"""What is learned. Each objective is one file with pure functions on the batch:

    NEEDS         the scores that it asks the policy for
    denominators  (rows, settings) -> what each term of its loss is divided by, counted over the whole step ahead
    loss          (scores, batch, settings) -> Loss, in sums

A row is never cut over passes, so pairs and groups stay together.
"""

from __future__ import annotations

from types import ModuleType

from finery.train.objectives import pt, sft

OBJECTIVES: dict[str, ModuleType] = {"sft": sft, "pt": pt}
