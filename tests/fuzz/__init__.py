"""What strangers write, made up by a machine and held to laws: ``python -m tests.fuzz [--runs N] [NAME ...]``.

A parser has a law (a function of bytes that raises when it does not hold) and a corpus of kept inputs, each of which
takes a way through the code that no other takes, or broke something once. ``machine`` makes up new ones, guided by the
branches they reach.
"""
