"""Whether warming at full tilt is felt by others: by invalidations that go through the queue, and by an app's reads.

`stage` starts servers and workers, each on its core; `origin` is what the workers load; `measure` takes the times. Run
it with `python -m benchmarks.interference`, on a machine that does nothing else.
"""
