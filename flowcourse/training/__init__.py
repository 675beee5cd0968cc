"""Training, saving, loading and measuring: one loop for every model of the course.

>>> from flowcourse import catalog, data
>>> digits = data.load("digits")
>>> model = catalog.topic("nice").build(digits.event_shape, digits.levels, hidden=8, depth=1)
>>> result = train(model, digits, TrainingConfig(steps=2, batch_size=8), verbose=False)
>>> result.steps
2
"""

from flowcourse.training.config import TrainingConfig, learning_rate
from flowcourse.training.context import context_for
from flowcourse.training.ema import ExponentialMovingAverage
from flowcourse.training.errors import RunError, TrainingDiverged
from flowcourse.training.evaluation import Evaluation, evaluate
from flowcourse.training.loop import TrainingResult, train
from flowcourse.training.runs import Plan, load, plan, read_run

__all__ = [
    "Evaluation",
    "ExponentialMovingAverage",
    "Plan",
    "RunError",
    "TrainingConfig",
    "TrainingDiverged",
    "TrainingResult",
    "context_for",
    "evaluate",
    "learning_rate",
    "load",
    "plan",
    "read_run",
    "train",
]
