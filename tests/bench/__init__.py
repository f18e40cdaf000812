"""Measurements with real processes: ``python -m tests.bench [NAME...]``. Not tests: no figure here can fail.

Each line is a ratio against something run beside it on the same machine in the same minute (interleaved, medians),
and then the absolute figures with their spread. What is measured has its log, its wall and its hold-back on.
"""
