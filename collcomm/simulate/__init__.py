"""Deterministic simulation: the real machines, engine and streams under one seeded scheduler with virtual time.

`collcomm.simulate.history` lets one history happen; it needs the package greenlet (the extra ``simulate``).
"""
