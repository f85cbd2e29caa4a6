"""Report on a study: one HTML file, and the same figures and tables in a notebook.

A new figure is a function of `ReportData` in the file of its kind and an entry of `figures.FIGURES`; the report shows
it where `page.SECTIONS` names it.
"""
