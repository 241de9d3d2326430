"""The file that Flower reads its options from: `celery -A stoker.worker.app flower --conf=<this file>`.

A file, not arguments, so that the password is neither in the process list nor in the environment of others.
"""

from stoker.config import Settings
from stoker.worker.flower import options

globals().update(options(Settings()))
