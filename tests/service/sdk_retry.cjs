// Orders one video with whichever openai package is on the path; run in a subprocess.
// Prints its id as one JSON object.

const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");

async function main() {
  const video = await new OpenAI().videos.create({ prompt: "a fox", model: "pocket" });
  process.stdout.write(JSON.stringify({ id: video.id, version: VERSION }));
}

main();
