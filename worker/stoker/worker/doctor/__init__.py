"""`stoker doctor`: looks at a running system and says what is wrong, why, and what to do about it.

Reading order: `check` (what a check says), `system` (what checks look at), `run` (all checks, in time), `report`; each
other module is one check of the name it has on the command line. The doctor repairs nothing. What it writes is one
short-lived entry in a tenant of its own and invalidations of that.
"""
