"""Serving: scores of raw values in memory, of files of any length, and over HTTP.

    scorer.py       Scorer: raw values in, probabilities out          <- what the rest stands on
    prediction.py   predict_file, which is `tablefold predict`
    supervisor.py   serve, which is `tablefold serve`

Nothing is imported here: the process that watches over a service does without torch.
"""
