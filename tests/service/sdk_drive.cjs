// Drives an API with whichever openai package is on the path; run in a subprocess by test_sdk.
// The same tour as sdk_drive.py. Prints a report as JSON: the SDK's version, the checks made, and
// what did not hold.

const { createReadStream, readFileSync, writeFileSync } = require("node:fs");
const { OpenAI, toFile } = require("openai");
const { VERSION } = require("openai/version");

const PROMPT = "a red fox walks to the left";
const LATER = "later"; // no worker takes this one
const SHOTS = [{ prompt: "a fox", seconds: 1 }, { prompt: "a hare", seconds: 1 }];
const checked = [];
const unexpected = [];
const made = [];
let sent = 0; // requests, retries included

function check(name, holds, shown) {
  checked.push(name);
  if (!holds) unexpected.push(`${name}: ${JSON.stringify(shown)}`);
}

// Note whether a call throws the SDK's class with our code and a request id, at once.
async function refused(name, kind, code, call) {
  const before = sent;
  try {
    check(name, false, await call());
  } catch (error) {
    const said = [error.code, Boolean(error.requestID), Boolean(error.message), sent - before];
    const wanted = [code, true, true, 1];
    const holds = error instanceof kind && String(said) === String(wanted);
    check(name, holds, [String(error), ...said]);
  }
}

async function order(client, fields = {}, options = {}) {
  const body = { model: "pocket", prompt: PROMPT, ...fields };
  const video = await client.videos.create(body, options);
  if (!made.includes(video.id)) made.push(video.id);
  return video;
}

async function createInEveryEncoding(client) {
  const form = await order(client, { seconds: "1", size: "64x64" });
  check("create", form.object === "video" && form.seconds === "1", form);
  const body = { model: "pocket", prompt: PROMPT, seed: 42, metadata: { scene: "4" } };
  const json = await client.post("/videos", { body });
  made.push(json.id);
  check("create as JSON", json.seed === 42 && json.metadata.scene === "4", json);
  const metadata = { a: "b", c: "d" };
  const plain = await order(client, { seed: 43, guidance_scale: 1.5, metadata });
  check("extra fields", plain.seed === 43 && plain.guidance_scale === 1.5, plain);
  check("object", plain.metadata.a === "b" && plain.metadata.c === "d", plain);
  for (const [name, shots] of [["list of objects", SHOTS], ["list as text", JSON.stringify(SHOTS)]]) {
    const story = await order(client, { model: "able", shots });
    check(name, String(story.shots.map((shot) => shot.prompt)) === "a fox,a hare", story);
  }
  const headers = { "Idempotency-Key": "once" };
  const first = await order(client, { seed: 44 }, { headers });
  const second = await order(client, { seed: 44 }, { headers });
  check("idempotency key", first.id === second.id, [first.id, second.id]);
  await refused("idempotency key of another", OpenAI.UnprocessableEntityError,
    "idempotency_key_reused", () => order(client, { seed: 45 }, { headers }));
}

async function givePictures(client, folder) {
  const path = `${folder}/first.png`;
  const raw = readFileSync(path);
  const forms = {
    "open file": createReadStream(path),
    "named bytes": await toFile(raw, "first.png", { type: "image/png" }),
    "nameless bytes": new File([raw], "upload"),
  };
  for (const [name, form] of Object.entries(forms)) {
    const video = await order(client, { model: "able", input_reference: form });
    check(name, video.task_type === "image", video);
  }
  const pair = [await toFile(raw, "a.png"), await toFile(raw, "b.png")];
  const several = await order(client, { model: "able", input_reference: pair });
  check("list of files", several.task_type === "reference", several);
  const large = readFileSync(`${folder}/large.png`).toString("base64");
  check("large enough", large.length > 1 << 20, large.length);
  const reference = { image_url: `data:image/png;base64,${large}` };
  const byUrl = await order(client, { model: "able", input_reference: reference });
  check("data-URL", byUrl.task_type === "image", byUrl.task_type);
  const shots = [SHOTS[0], { prompt: "a hare" }];
  await refused("uneven list", OpenAI.BadRequestError, "ambiguous_form_array",
    () => order(client, { model: "able", shots }));
}

async function keepFiles(client, folder) {
  const path = `${folder}/first.png`;
  const kept = await client.files.create({ file: createReadStream(path), purpose: "vision" });
  const found = await client.files.retrieve(kept.id);
  const raw = readFileSync(path);
  check("file", found.id === kept.id && found.bytes === raw.length, found);
  const content = await client.files.content(kept.id);
  check("file's content", raw.equals(Buffer.from(await content.arrayBuffer())));
  const listed = [];
  for await (const file of client.files.list()) listed.push(file.id);
  check("files", String(listed) === kept.id, listed);
  const frame = { file_id: kept.id };
  const both = await order(client,
    { model: "able", first_frame: frame, last_frame: frame, last_frame_strength: 0.5 });
  const seen = [both.task_type, both.last_frame_strength];
  check("file ids", String(seen) === "first_last_frame,0.5", seen);
  check("file deleted", (await client.files.delete(kept.id)).deleted);
}

// This SDK has no polling of its own.
async function poll(client, id) {
  for (;;) {
    const { data, response } = await client.videos.retrieve(id).withResponse();
    if (!["queued", "in_progress"].includes(data.status)) return data;
    const pause = Number(response.headers.get("openai-poll-after-ms"));
    await new Promise((resume) => setTimeout(resume, pause));
  }
}

async function follow(client) {
  const { id } = await order(client, { seed: 46 });
  const video = await poll(client, id);
  check("poll", video.status === "completed" && video.progress === 100, video);
  check("timestamps", video.completed_at >= video.created_at && video.expires_at, video);
  const got = await client.videos.retrieve(id);
  check("retrieve", got.prompt === PROMPT && got.error === null, got);
  for (const other of made) await poll(client, other);
  return id;
}

async function bytesOf(response) {
  return Buffer.from(await response.arrayBuffer());
}

async function download(client, id, path) {
  const content = (query, headers) => client.videos.downloadContent(id, query, { headers });
  const answer = await content();
  const whole = await bytesOf(answer);
  writeFileSync(path, whole);
  const etag = answer.headers.get("etag");
  check("content type", answer.headers.get("content-type") === "video/mp4");
  const chunks = [];
  for await (const chunk of (await content()).body) chunks.push(chunk);
  check("streamed", whole.equals(Buffer.concat(chunks)));
  const part = await content({}, { Range: "bytes=5-9" });
  check("range", part.status === 206 && whole.subarray(5, 10).equals(await bytesOf(part)));
  const unchanged = await content({}, { "If-None-Match": etag }).catch((error) => error);
  check("unchanged", unchanged.status === 304, String(unchanged));
  for (const [variant, start] of [["thumbnail", "52494646"], ["spritesheet", "ffd8ff"]]) {
    const picture = await bytesOf(await content({ variant }));
    check(variant, picture.toString("hex").startsWith(start), picture.subarray(0, 16));
  }
}

async function idsOf(pages) {
  const ids = [];
  for await (const video of pages) ids.push(video.id);
  return ids;
}

async function page(client) {
  const pages = [];
  for await (const one of (await client.videos.list({ limit: 5 })).iterPages()) pages.push(one);
  check("pages", pages.length >= 3 && !pages.at(-1).has_more, pages.length);
  const newest = await idsOf(client.videos.list({ limit: 5 }));
  const oldest = await idsOf(client.videos.list({ limit: 3, order: "asc" }));
  const holds = String(newest.toReversed()) === String(oldest) && String(oldest) === String(made);
  check("list", holds, [newest, oldest, made]);
  const rest = await client.videos.list({ after: newest.at(-1) });
  check("list ends", rest.data.length === 0);
}

async function meetRefusals(client, limited) {
  const bad = OpenAI.BadRequestError;
  const absent = "video_" + "0".repeat(32);
  const wrong = client.withOptions({ apiKey: "wrong" });
  const broken = () => toFile(Buffer.from("x"), "x.png");
  const held = await limited.videos.create({ prompt: LATER });
  const matrix = [
    ["bad size", bad, "invalid_value", () => order(client, { size: "1280x720" })],
    ["unknown field", bad, "unknown_parameter", () => order(client, { tau: 1 })],
    ["no such model", bad, "model_not_found", () => order(client, { model: "sora-2" })],
    ["not its kind", bad, "unsupported_task",
      async () => order(client, { input_reference: await broken() })],
    ["no picture", bad, "invalid_input_media",
      async () => order(client, { model: "able", input_reference: await broken() })],
    ["no such video", OpenAI.NotFoundError, "video_not_found",
      () => client.videos.retrieve(absent)],
    ["no such key", OpenAI.AuthenticationError, "invalid_api_key", () => wrong.videos.list()],
    ["not in a hurry", OpenAI.PermissionDeniedError, "permission_denied",
      () => order(client, { service_tier: "priority" })],
    ["too many at once", OpenAI.RateLimitError, "concurrency_limit",
      () => limited.videos.create({ prompt: LATER })],
    ["not ready", OpenAI.NotFoundError, "video_not_ready",
      () => limited.videos.downloadContent(held.id)],
  ];
  for (const [name, kind, code, call] of matrix) await refused(name, kind, code, call);
  return held.id;
}

async function cancelAndDelete(client, limited, held) {
  const said = await limited.post(`/videos/${held}/cancel`, { body: {} });
  check("cancel", said.error.code === "cancelled", said);
  const failed = await limited.videos.retrieve(held);
  const seen = [failed.status, failed.error.code, Boolean(failed.error.message)];
  check("failed job", String(seen) === "failed,cancelled,true", seen);
  await refused("cancel too late", OpenAI.ConflictError, "video_not_cancellable",
    () => client.post(`/videos/${made[0]}/cancel`, { body: {} }));
  for (const id of made) {
    const gone = await client.videos.delete(id);
    check("delete", gone.deleted && gone.object === "video.deleted", gone);
  }
  check("delete again", (await client.videos.delete(made[0])).deleted);
  check("nothing left", (await client.videos.list()).data.length === 0);
}

async function main(folder, otherKey) {
  const counting = (...call) => ((sent += 1), fetch(...call));
  const client = new OpenAI({ fetch: counting });
  const limited = client.withOptions({ apiKey: otherKey, maxRetries: 0 });
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  check("models", String(models.sort()) === "able,pocket", models);
  check("model", (await client.models.retrieve("pocket")).owned_by === "praxino");
  await createInEveryEncoding(client);
  await givePictures(client, folder);
  await keepFiles(client, folder);
  await download(client, await follow(client), `${folder}/clip.mp4`);
  await page(client);
  const held = await meetRefusals(client, limited);
  await cancelAndDelete(client, limited, held);
  process.stdout.write(JSON.stringify({ version: VERSION, checked, unexpected }));
}

main(...process.argv.slice(2));
