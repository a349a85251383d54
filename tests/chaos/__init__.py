"""Faults under load: a real server is killed, starved and poisoned, and what became of every task is counted.

`make chaos` runs it; `docs/reliability.md` says what is promised and what came out last.
"""
