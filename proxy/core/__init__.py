"""Decides. Pure: no async, no I/O, no clock, no aiohttp, no diskcache."""
