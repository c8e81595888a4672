// Meets what an API refuses with whichever openai package is on the path; run in a subprocess.
// Prints the exception of every call as one JSON object.

const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");

async function refusal(call) {
  try {
    return { kind: null, message: String(await call()) };
  } catch (error) {
    const { status, code, param, type, message } = error;
    const kind = error.constructor.name;
    return { kind, status, code, param, type, message, has_id: Boolean(error.requestID) };
  }
}

async function main(expired) {
  const client = new OpenAI({ maxRetries: 0 });
  const create = (prompt, headers = {}) => client.post("/videos", { body: { prompt }, headers });
  const report = {
    410: await refusal(() => client.videos.downloadContent(expired)),
    413: await refusal(() => client.videos.create({ prompt: "x".repeat(200000) })),
    415: await refusal(() => create("a fox", { "Content-Type": "text/xml" })),
    503: await refusal(async () => {
      for (const i of [0, 1]) await client.videos.create({ prompt: `a fox ${i}` });
    }),
  };
  process.stdout.write(JSON.stringify({ ...report, version: VERSION }));
}

main(...process.argv.slice(2));
