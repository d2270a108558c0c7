"""Training click models: the loop, its optimisers, its metrics, and what a finished run holds.

    trainer = Trainer(model, "amsgrad", lr=1e-3)
    trainer.fit(dataset.part("train"), Schedule(epochs=1, batch_size=128), dataset.part("validation"))
    trainer.evaluate(dataset.part("test")).auc

`train_run(Config(...), out)` does what `tablefold train` does; `load_run(out)` reads its folder back;
`train_from(run, data, out)` goes on from one.
"""

from tablefold.train.config import Config
from tablefold.train.continued import train_from
from tablefold.train.loop import Trainer, TrainingDivergedError
from tablefold.train.metrics import Meter, Metrics
from tablefold.train.progress import Listener, Progress, Schedule
from tablefold.train.run import Run, load_run
from tablefold.train.target import Target
from tablefold.train.tensorboard import TensorBoard
from tablefold.train.training import train_run

__all__ = [
    "Config",
    "Listener",
    "Meter",
    "Metrics",
    "Progress",
    "Run",
    "Schedule",
    "Target",
    "TensorBoard",
    "Trainer",
    "TrainingDivergedError",
    "load_run",
    "train_from",
    "train_run",
]
