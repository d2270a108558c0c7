"""Training click models: the loop, its optimisers, its metrics, and what a finished run holds."""
