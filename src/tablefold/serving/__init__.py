"""Serving: scores of raw values in memory, of files of any length, and over HTTP.

    scorer = Scorer("run")
    scorer.score([{"user": "ann", "ad": 7, "age": 31}])     # float32 [1]

`predict_file` is `tablefold predict`; `tablefold.serving.service` is `tablefold serve`.
"""

from tablefold.serving.prediction import predict_file
from tablefold.serving.scorer import Scorer, Scores

__all__ = ["Scorer", "Scores", "predict_file"]
