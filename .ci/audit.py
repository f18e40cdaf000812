"""What pip-audit found (its JSON, on standard input): a line for each vulnerability, and of how many packages anything
is known at all. An index that tells no vulnerabilities, as a mirror, must not look like one that knows of none.

Exits 1 when there is one.
"""

import json
import sys

packages = json.load(sys.stdin)["dependencies"]
asked = [each for each in packages if "skip_reason" not in each]
found = [(each["name"], each["version"], known["id"]) for each in asked for known in each["vulns"]]
for name, version, known in found:
    print(f"{name} {version}: {known}")
print(f"pip-audit: {len(found)} known vulnerabilities; the index tells of {len(asked)} of {len(packages)} packages")
sys.exit(1 if found else 0)
