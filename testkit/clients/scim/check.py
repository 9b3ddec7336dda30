"""Asks a server of SCIM everything that scim2-tester knows to ask. Prints one line of JSON: how often each came out, and what fell
short."""

import json
import sys
from collections import Counter

from httpx2 import Client
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server

base, token = sys.argv[1:]
headers = {"Authorization": "Bearer " + token}
scim = SyncSCIMClient(Client(base_url=base, headers=headers, timeout=60))
results = check_server(scim)
bad = {Status.DEVIATION, Status.ERROR, Status.CRITICAL}
short = [f"{one.title} {one.resource_type or ''}: {one.reason}" for one in results if one.status in bad]
counts = Counter(one.status.name.lower() for one in results)
print(json.dumps({"counts": counts, "short": short}))
