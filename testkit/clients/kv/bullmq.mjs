// BullMQ: jobs with retries, delays, priorities and a flow of parents and children.
import assert from "node:assert/strict";
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";

let checks = 0;
const same = (found, expected) => {
  assert.deepEqual(found, expected);
  checks += 1;
};
const connection = { host: process.env.HOST, port: Number(process.env.PORT), maxRetriesPerRequest: null };
const queue = new Queue("work", { connection });
const events = new QueueEvents("work", { connection });
await events.waitUntilReady();
const attempts = new Map();
const worker = new Worker("work", async (job) => {
  const attempt = (attempts.get(job.id) ?? 0) + 1;
  attempts.set(job.id, attempt);
  if (job.name === "stumble" && attempt < 3) throw new Error("again");
  if (job.name === "parent") return Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0);
  return job.data.number * 2;
}, { connection, concurrency: 4 });
const jobs = await queue.addBulk([...Array(50).keys()].map((number) => ({ name: "double", data: { number } })));
for (const job of jobs) same(await job.waitUntilFinished(events, 30000), job.data.number * 2);
const stumble = await queue.add("stumble", { number: 4 }, { attempts: 3, backoff: { type: "fixed", delay: 10 } });
same(await stumble.waitUntilFinished(events, 30000), 8);
const delayed = await queue.add("double", { number: 5 }, { delay: 200 });
same(await delayed.waitUntilFinished(events, 30000), 10);
const flow = await new FlowProducer({ connection }).add({
  name: "parent", queueName: "work", children: [1, 2, 3].map((number) => ({ name: "double", queueName: "work", data: { number } })),
});
same(await flow.job.waitUntilFinished(events, 30000), 12);
const counts = await queue.getJobCounts("completed", "failed", "waiting");
same([counts.failed, counts.waiting], [0, 0]);
console.log(`ok ${checks} checks`);
process.exit(0);
