"""The public HTTP cache suite, npm's http-cache-tests, against the real server: how it is run, and what it may fail."""
