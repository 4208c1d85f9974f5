"""Results of a study: rows, statistics, verdicts and words.

Only this package reads rows. It normalises them (`rows`), compares models by paired tests
(`statistics`), decides which are better (`verdicts`) and puts that into words (`wording`), each
once; the terminal, the report and the documentation show these words.
"""
