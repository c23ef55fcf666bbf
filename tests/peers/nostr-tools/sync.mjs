// A stock client (nostr-tools) that reconciles with one relay in both directions (NIP-77): node sync.mjs URL DIRECTORY
//
// As rust-nostr/src/bin/sync.rs. It finds out what differs; fetching and publishing is the caller's, as its authors mean it.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { nip77, Relay } from 'nostr-tools'
import WebSocket from 'ws'

globalThis.WebSocket = WebSocket
const { NegentropyStorageVector, NegentropySync } = nip77

const IDS_PER_REQ = 100

const [url, directory] = process.argv.slice(2)
const lines = text => text.split('\n').filter(line => line !== '')
const held = new Map(lines(readFileSync(join(directory, 'held'), 'utf8')).map(line => {
  const event = JSON.parse(line)
  return [event.id, event]
}))

const storage = new NegentropyStorageVector()
for (const event of held.values()) storage.insert(event.created_at, event.id)
storage.seal()

const relay = await Relay.connect(url)
const have = [], need = []
await new Promise((resolve, reject) => {
  const sync = new NegentropySync(relay, storage, {}, {
    onhave: id => have.push(id),
    onneed: id => need.push(id),
    onclose: why => (why === undefined ? resolve() : reject(new Error(why))),
  })
  sync.start()
})
for (let at = 0; at < need.length; at += IDS_PER_REQ) {
  await new Promise(resolve => {
    const sub = relay.subscribe([{ ids: need.slice(at, at + IDS_PER_REQ) }], {
      onevent: event => held.set(event.id, event),
      oneose: () => { sub.close(); resolve() },
    })
  })
}
for (const id of have) await relay.publish(held.get(id))
console.log(`nostr-tools: ${have.length} sent, ${need.length} received`)
writeFileSync(join(directory, 'complete'), [...held.values()].map(event => JSON.stringify(event) + '\n').join(''))
relay.close()
