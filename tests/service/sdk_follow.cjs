// Streams a job's events with whichever openai package is on the path; run in a subprocess.
// Prints as JSON what the SDK's own stream yielded, after a resume half way.

const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");

async function stream(client, id, headers) {
  const events = [];
  const answer = await client.get(`/videos/${id}/events`, { stream: true, headers });
  for await (const event of answer) events.push(event);
  return events;
}

async function main(id, after) {
  const client = new OpenAI();
  const whole = await stream(client, id, {});
  const rest = await stream(client, id, { "Last-Event-ID": after });
  process.stdout.write(JSON.stringify({ whole, rest, version: VERSION }));
}

main(...process.argv.slice(2));
