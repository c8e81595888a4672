// Unwraps a webhook with whichever openai package is on the path; run in a subprocess.
// Reads {body, headers, secret} as JSON; prints what the SDK made of it, and of a tampered one.

const { readFileSync } = require("node:fs");
const { InvalidWebhookSignatureError, OpenAI } = require("openai");
const { VERSION } = require("openai/version");

async function main() {
  const { body, headers, secret } = JSON.parse(readFileSync(0, "utf8"));
  const { webhooks } = new OpenAI({ webhookSecret: secret });
  const event = await webhooks.unwrap(body, headers);
  const tampered = body.replace("completed", "cancelled");
  const refusal = await webhooks.unwrap(tampered, headers).catch((error) => error);
  const refused = refusal instanceof InvalidWebhookSignatureError && tampered !== body;
  const { id, type, data } = event;
  const found = { version: VERSION, id, type, video: data.id, tampered_refused: refused };
  process.stdout.write(JSON.stringify(found));
}

main();
