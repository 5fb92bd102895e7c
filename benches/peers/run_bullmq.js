// Jobs a second of BullMQ (https://github.com/taskforcesh/bullmq): `run_bullmq.js PORT COUNT IN_FLIGHT`,
// in a directory with `node_modules/bullmq`.
//
// Each job is added by a call of its own, IN_FLIGHT of them at a time; a worker that runs as many at once
// completes each with a result of its own. Prints the seconds from the first call to the last `completed`.

'use strict';

const path = require('node:path');
const { Queue, Worker } = require(path.join(process.cwd(), 'node_modules', 'bullmq'));

const [port, count, inFlight] = process.argv.slice(2).map(Number);
const connection = { host: '127.0.0.1', port };
const name = `jobs-${process.pid}`;

async function main() {
  const queue = new Queue(name, { connection });
  const worker = new Worker(name, async (job) => ({ number: job.data.number }), { connection, concurrency: inFlight });
  await Promise.all([queue.waitUntilReady(), worker.waitUntilReady()]);
  let completed = 0;
  const all = new Promise((resolve, reject) => {
    worker.on('completed', () => { if (++completed === count) resolve(); });
    worker.on('failed', (_, error) => reject(error));
    worker.on('error', reject);
  });
  let next = 0;
  const produce = async () => {
    while (next < count) await queue.add('noop', { number: next++ });
  };
  const started = process.hrtime.bigint();
  await Promise.all(Array.from({ length: inFlight }, produce));
  await all;
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  await worker.close();
  await queue.obliterate({ force: true });
  await queue.close();
  console.log(seconds);
}

main().catch((error) => { console.error(error); process.exit(1); });
