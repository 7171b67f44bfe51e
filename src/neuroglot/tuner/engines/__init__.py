"""How a wrapped layer computes: what it keeps of its units, and the two ways from there to its output.

`units` says which units and groups, `deltas` holds their parameters, `weight` puts them into a matrix and takes them
out again; `sliced` and `additive` are the arithmetic, `quantised` what bitsandbytes wants to know.
"""
