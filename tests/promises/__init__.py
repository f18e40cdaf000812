"""What this cache promises, as figures: ``python -m tests.promises [--long] [G1 ...]``, and in every run of the tests.

One module for each promise, in two sizes of the same code. It says its promise and its goal, makes the fault really
happen (and shows that it did), and tells what it measured.
"""
