"""int8 graphs for CPUs: ranges from volumes, quantized linear layers, a judgement on other volumes.

`request` says which volumes, `slices` chooses what sets the ranges and what judges, `graph`
quantizes, `judge` compares with the float32 graph, `add` puts a graph that passed into its bundle,
`command` is the command line.
"""
