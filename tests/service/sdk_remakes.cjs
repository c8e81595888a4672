// Makes jobs of earlier ones with whichever openai package is on the path; run in a subprocess.
// Prints the videos that it was answered as one JSON object.

const { createReadStream } = require("node:fs");
const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");

const prompt = "a red fox walks to the left";

async function main(id, clip) {
  const client = new OpenAI();
  const { videos } = client;
  const report = { version: VERSION };
  report.remix = await videos.remix(id, { prompt: "a blue fox" });
  for (const [form, video] of [["file", () => createReadStream(clip)], ["id", () => ({ id })]]) {
    report[`extend by ${form}`] = await videos.extend({ prompt, seconds: "1", video: video() });
    report[`edit by ${form}`] = await videos.edit({ prompt, video: video() });
  }
  report.upscale = await client.post(`/videos/${id}/upscale`, { body: { upscale_factor: 2 } });
  const absent = "video_" + "0".repeat(32);
  const error = await videos.remix(absent, { prompt }).catch((refusal) => refusal);
  report.gone = [error.constructor.name, error.code];
  process.stdout.write(JSON.stringify(report));
}

main(...process.argv.slice(2));
