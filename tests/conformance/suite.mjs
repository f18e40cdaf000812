// Runs cases of the npm package http-cache-tests as its own cli.mjs does, and judges them with its own judge.
//
// node suite.mjs DIRECTORY BASE: the directory the package is installed in, and the URL it takes for its origin's.
// Standard input: {"ids": [...] or null for all, "known": {...}}; named cases run one after the other, with those they
// depend on, and what is "known" of the others (the "results" of an earlier run) is kept.
// Standard output: {"results": {id: true or [name, message]}, "cases": [{id, suite, kind, mark, detail}, ...]}

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [directory, base] = process.argv.slice(2)
const order = JSON.parse(readFileSync(0, 'utf8'))
const home = join(directory, 'node_modules', 'http-cache-tests')
const from = async name => import(pathToFileURL(join(home, name)))

const { default: suites } = await from('tests/index.mjs')
const { default: surrogate } = await from('tests/surrogate-control.mjs')
const { runTests, getResults } = await from('client/runner.mjs')
const { determineTestResult, testLookup } = await from('lib/display.mjs')
const { default: fetch } = await import(pathToFileURL(createRequire(join(home, 'cli.mjs')).resolve('node-fetch')))

suites.push(surrogate)

function withThoseTheyDependOn (ids) {
  return ids.flatMap(id => [id, ...withThoseTheyDependOn(testLookup(suites, id).depends_on || [])])
}

if (order.ids === null) {
  await runTests(suites, fetch, false, base)
} else {
  const asked = new Set(withThoseTheyDependOn(order.ids))
  const some = suites.map(suite => ({ ...suite, tests: suite.tests.filter(test => asked.has(test.id)) }))
  await runTests(some, fetch, false, base, 1)
}

const results = { ...order.known, ...getResults() }
const cases = suites.flatMap(suite => suite.tests.filter(test => test.browser_only !== true).map(test => ({
  id: test.id,
  suite: suite.id,
  kind: test.kind || 'required',
  mark: determineTestResult(suites, test.id, results)[2],
  detail: Array.isArray(results[test.id]) ? results[test.id].join(': ') : ''
})))
process.stdout.write(JSON.stringify({ results, cases }))
