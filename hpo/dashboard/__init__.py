"""optuna-dashboard over a study store: read-only unless asked, for whoever has its address, with what hpo knows added.

What is shown beyond optuna-dashboard's own pages: a note in `notes.py`, a figure by an entry of `FIGURES_SHOWN` in
`additions.py`.
"""
