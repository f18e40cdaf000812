"""Talks to clients. Only ``translate`` knows both aiohttp and our values."""
