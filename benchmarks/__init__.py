"""Measurements that the documents rest on; each says in its first lines how it is run."""

from tuner.printing import quiet_libraries

quiet_libraries()
