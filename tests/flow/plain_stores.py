"""Takes leases away from the worker that imports it: whatever a loader gave is stored, as by a plain SET."""

from stoker.worker.verify import guards

guards.no_lease()
guards.stamp_after_load()
