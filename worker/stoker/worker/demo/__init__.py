"""`stoker demo`: a real workload on real data, which checks every value that it reads.

The rows are the world's airports in a SQLite database; a country is a tenant. A job warms the cache with all of
them. Then a producer changes rows and invalidates them, directly and by jobs, while readers look for a value
that is older than what was acknowledged. There must be none.

Reading order: `run` (what happens when), `airports` (the source of truth), `loaders` (how the cache gets at it),
`producer` and `reader` (processes of their own), `board` (what they tell each other), `summary` (the verdict),
`breaking` (what `--break` does).
"""
