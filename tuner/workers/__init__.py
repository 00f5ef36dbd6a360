"""Jobs that survive: a table with leases, and the processes that work it off."""
