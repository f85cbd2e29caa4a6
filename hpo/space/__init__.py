"""Search spaces: hyperparameters, their values, and the conditions under which they are active.

`domains` says what values a parameter may take, `specs` how that is written, `conditions` when it is active,
`relative_rate` what a learning rate is a multiple of, `parameters` is all that of one hyperparameter. `coherence` says
whether they go together, `enumeration` what combinations they have; `search_space` is the whole, read by `space_file`.
To add a distribution: a class in `domains` and its lines in `specs`. To add a shipped space: a file in
`search_spaces/`. Nothing here imports Optuna.
"""
