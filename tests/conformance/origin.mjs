// Starts the suite's origin server, whose address is all of the machine's, on the loopback alone.
//
// node origin.mjs DIRECTORY: the directory the package is installed in. The port is in npm_config_port, 0 for any.

import net from 'node:net'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port) { return listen.call(this, port, '127.0.0.1') }

await import(pathToFileURL(join(process.argv[2], 'node_modules', 'http-cache-tests', 'server', 'server.mjs')))
