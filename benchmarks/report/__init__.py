"""The report of a benchmark: one table, Markdown and a page, all from the JSON alone."""
