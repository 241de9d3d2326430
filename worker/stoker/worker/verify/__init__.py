"""`stoker verify`: the consistency checker. It tries to be served something stale, and says whether it was.

A crew of processes reads, writes, warms and sweeps against a versioned source of truth, while a seed decides who is
killed, when the server crashes and what is lost. Every value read is compared with the version whose invalidation had
been acknowledged when the read began.

Reading order: `plan` (what a run is to be), `world` (the truth, and what was acknowledged), `judge` (whether a value
may have been served), `source` (slow loaders), `roles` (what the crew does), `faults` (what goes wrong), `server` (what
it goes wrong with), `harness` (one run), `verdict` (whether it was good), `command` (what is printed), `guards` (what
`--break` takes away from the product: only here, no setting can).
"""
