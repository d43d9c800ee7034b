"""Importing this module makes the standard library cooperate with gevent.

Imported first by worker/worker.py and by nobody else: in the forked child, before anything that opens a
socket, a lock or a thread. The master must never see it.
"""

from gevent import monkey

monkey.patch_all()
