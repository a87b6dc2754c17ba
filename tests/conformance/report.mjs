// Reads the results of a run of http-tests/cache-tests and says what they mean: how many tests of each kind pass, which
// fail, and whether that is what the list of known failures says.
// usage: node report.mjs SUITE RESULTS.json [KNOWN]
import { existsSync, readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { resolve } from 'node:path'

const [suite, resultsFile, knownFile] = process.argv.slice(2)
const results = JSON.parse(readFileSync(resultsFile, 'utf8'))
const load = async path => (await import(pathToFileURL(resolve(suite, path)))).default

const groups = [...await load('tests/index.mjs')]
// The edition on npm runs this group beside the others.
if (existsSync(resolve(suite, 'tests/surrogate-control.mjs'))) groups.push(await load('tests/surrogate-control.mjs'))
const tests = new Map()
for (const group of groups) {
  for (const test of group.tests) if (!test.browser_only) tests.set(test.id, test)
}

// As the suite's own table: a test counts only where the tests that it depends on pass.
function passes (id) {
  const test = tests.get(id)
  return test !== undefined && results[id] === true && (test.depends_on ?? []).every(passes)
}

const counts = { required: [0, 0], optimal: [0, 0] }
const failing = []
const missing = []
for (const [id, test] of tests) {
  const count = counts[test.kind ?? 'required']
  if (count === undefined) continue // a `check` only asks what a cache does
  count[1] += 1
  if (!(id in results)) missing.push(id)
  if (passes(id)) count[0] += 1
  else failing.push([id, test.kind ?? 'required', results[id] === true ? 'a test it depends on fails' : results[id]?.[1] ?? 'not run'])
}

for (const [id, kind, why] of failing) console.log(`fails  ${kind.padEnd(8)}  ${id}: ${why}`)
for (const [kind, [passed, all]] of Object.entries(counts)) console.log(`${kind}: ${passed} of ${all}`)
if (missing.length > 0) {
  console.log(`not run: ${missing.join(' ')}`)
  process.exit(1)
}
if (knownFile === undefined) process.exit(0)

const lines = readFileSync(knownFile, 'utf8').split('\n').map(line => line.split('#')[0].trim())
const known = new Set(lines.filter(line => line !== ''))
const regressed = failing.map(([id]) => id).filter(id => !known.has(id))
const recovered = [...known].filter(id => !failing.some(([failed]) => failed === id))
for (const id of regressed) console.log(`error: ${id} fails, and is not among the known failures`)
for (const id of recovered) console.log(`error: ${id} passes: take it out of ${knownFile}, which may only shrink`)
process.exit(regressed.length + recovered.length === 0 ? 0 : 1)
