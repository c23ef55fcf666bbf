"""A stock client (nostr-sdk for Python) that reconciles with one relay in both directions (NIP-77).

    python nostr_sdk.py URL DIRECTORY

As rust-nostr/src/bin/sync.rs, of another year and another language.
"""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

# This file is not to be found under the name of the package.
sys.path.pop(0)

from nostr_sdk import (  # noqa: E402
    ClientBuilder,
    DatabaseEventStatus,
    Event,
    Filter,
    NostrDatabase,
    NostrDatabaseFeatures,
    RelayUrl,
    SaveEventStatus,
    SyncDirection,
    SyncOptions,
    uniffi_set_event_loop,
)


class Memory(NostrDatabase):
    """Every event by its id: the package has no database of its own that keeps events."""

    def __init__(self):
        self.events = {}

    def backend(self):
        return "memory"

    def features(self):
        return NostrDatabaseFeatures(
            persistent=False, event_expiration=False, full_text_search=False, request_to_vanish=False
        )

    async def save_event(self, event):
        self.events[event.id().to_hex()] = event
        return SaveEventStatus.success()

    async def check_id(self, event_id):
        is_held = event_id.to_hex() in self.events
        return DatabaseEventStatus.SAVED if is_held else DatabaseEventStatus.NOT_EXISTENT

    async def event_by_id(self, event_id):
        return self.events.get(event_id.to_hex())

    async def query(self, filter):
        # Events are asked for by nothing or by their ids.
        wanted = json.loads(filter.as_json()).get("ids", self.events.keys())
        return [self.events[event_id] for event_id in wanted if event_id in self.events]

    async def count(self, filter):
        return len(await self.query(filter))

    async def delete_events(self, filter):
        raise NotImplementedError

    async def wipe(self):
        self.events.clear()


async def main(url, directory):
    uniffi_set_event_loop(asyncio.get_running_loop())
    client = ClientBuilder().database(Memory()).build()
    for line in (directory / "held").read_text().splitlines():
        await client.database().save_event(Event.from_json(line))
    await client.add_relay(RelayUrl.parse(url))
    await client.try_connect(timedelta(seconds=20))
    output = await client.sync(Filter(), opts=SyncOptions().direction(SyncDirection.BOTH))
    if output.failed or any(output.report.send_failures.values()):
        sys.exit(f"{output.failed} {output.report.send_failures}")
    print(f"nostr-sdk for Python: {len(output.report.sent)} sent, {len(output.report.received)} received")
    held = await client.database().query(Filter())
    (directory / "complete").write_text("".join(event.as_json() + "\n" for event in held))


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
