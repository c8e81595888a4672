// Makes a character and uses it with whichever openai package is on the path; run in a subprocess.
// Prints what it was answered as one JSON object.

const { createReadStream } = require("node:fs");
const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");

async function main(clip) {
  const { videos } = new OpenAI();
  const made = await videos.createCharacter({ name: "hero", video: createReadStream(clip) });
  const got = await videos.getCharacter(made.id);
  const video = await videos.create({ prompt: "@hero runs", characters: [{ id: made.id }] });
  process.stdout.write(JSON.stringify({ made, got, video, version: VERSION }));
}

main(...process.argv.slice(2));
