"""Hostile input: everything that reads bytes from outside is fed damaged, lying and absurd ones, and watched.

`make fuzz` runs it; `docs/reliability.md` says what is promised and what came out last.
"""
