"""The checker's question, put to other caches too: after an acknowledged invalidation, who is still served old values?

`stage` forks a crew over the versioned truth of `stoker verify` and lets the same things go wrong; `history` is what
the crew does, the same for each contender; `peers` holds one adapter a contender, written against `peer`. Run it with
`python -m benchmarks.consistency`. What came of it is in docs/peers.md.
"""
