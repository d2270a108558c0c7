from prepared import data  # noqa: F401  (a fixture)
