// Downloads a video with whichever openai package is on the path; run in a subprocess.
// Writes it to a file; prints the SDK's version and whether it was redirected.

const { writeFileSync } = require("node:fs");
const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");

async function main(id, path) {
  const answer = await new OpenAI().videos.downloadContent(id);
  writeFileSync(path, Buffer.from(await answer.arrayBuffer()));
  process.stdout.write(JSON.stringify({ version: VERSION, redirected: answer.redirected }));
}

main(...process.argv.slice(2));
