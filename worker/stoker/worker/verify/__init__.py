"""`stoker verify`: the consistency checker. It tries to be served something stale, and says whether it was.

A crew of processes reads, writes, warms and sweeps against a versioned source of truth, while a seed decides who is
killed, when the server crashes and what is lost. Every value read is compared with the version whose invalidation had
been acknowledged when the read began.

Reading order: `plan` (what a run is to be), `world` (the truth, and what was acknowledged), `judge` (whether a value
may have been served), `source` (slow loaders), `post` (where a role works), `writers`, `readers`, `async_readers` and
`producer` (what the crew does), `crew` (who is in it), `workers` and `in_worker` (the Celery workers), `duplicates`
(every task twice), `server` (what goes wrong), `faults` (how), `harness` (one run), `verdict` (whether it was good),
`full` (the runs of a release), `command` (what is printed), `guards` (what `--break` takes away from the product: only
here, no setting can). Of the product only `cli` imports from here.
"""
