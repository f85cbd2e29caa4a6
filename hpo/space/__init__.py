"""Search spaces: hyperparameters, their values, and the conditions under which they are active.

Processing of a space: file (`space_file`) -> our names (`translation`) -> domains (`specs`, `domains`) -> conditions
and defaults (`parameters`) -> checks over representative trials (`consistency`) -> `SearchSpace`. To add a
distribution: a class in `domains` and its lines in `specs`. To add a shipped space: a file in `search_spaces/`. Nothing
here imports Optuna.
"""
