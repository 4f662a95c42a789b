// openai for Node against a running honed: completions, chats, streams, usage, errors, retries.
// Usage: node openai_client.mjs URL STRICT_URL KEY, of a daemon that anybody may ask, and of one with a key, one slot and
// one waiting place.

import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, strict, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const guarded = (changes = {}) =>
  new OpenAI({ baseURL: `${strict}/v1`, apiKey: key, maxRetries: 0, timeout: 60_000, ...changes });

const prompt = "Write three adjectives to describe the ocean.\n";
const messages = [{ role: "user", content: "What color is the sky?" }];
const completion = { model: "policy", prompt, max_tokens: 16 };
const conversation = { model: "policy", messages, max_tokens: 16 };

function checkUsage(usage, most) {
  assert(usage.prompt_tokens > 0 && usage.completion_tokens > 0 && usage.completion_tokens <= most);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

async function modelsAreListed() {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert(names.includes("policy") && names.includes("sft"), String(names));
  assert.equal((await client.models.retrieve("policy")).id, "policy");
}

async function aPromptIsCompleted() {
  const { data, response } = await client.completions.create(completion).withResponse();
  assert(data.id.startsWith("cmpl-"));
  assert(["stop", "length"].includes(data.choices[0].finish_reason));
  assert.equal(data.system_fingerprint, `policy@${response.headers.get("x-honed-version")}`);
  checkUsage(data.usage, 16);
}

async function aChatIsAnswered() {
  const answer = await client.chat.completions.create({ ...conversation, n: 2, logprobs: true, top_logprobs: 2 });
  assert.deepEqual(answer.choices.map((choice) => choice.index).sort(), [0, 1]);
  for (const choice of answer.choices) {
    assert.equal(choice.message.role, "assistant");
    assert(choice.logprobs.content.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
  }
  checkUsage(answer.usage, 32);
}

async function streamsAreTheSameText() {
  const ask = { ...completion, model: "sft", temperature: 0 };
  const whole = await client.completions.create(ask);
  let [text, usage] = ["", null];
  for await (const chunk of await client.completions.create({
    ...ask, stream: true, stream_options: { include_usage: true },
  })) {
    text += chunk.choices[0]?.text ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].text);
  assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);
}

async function streamedChatsAreTheSameText() {
  const ask = { ...conversation, model: "sft", temperature: 0 };
  const whole = await client.chat.completions.create(ask);
  // The helper that puts chunks together is strict about their shape.
  const stream = client.chat.completions.stream({ ...ask, stream_options: { include_usage: true } });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
  assert.equal(final.choices[0].finish_reason, whole.choices[0].finish_reason);
  checkUsage(final.usage, 16);
}

async function aStreamMayBeDroppedHalfway() {
  const stream = await client.completions.create({ ...completion, max_tokens: 200, stream: true });
  for await (const _ of stream) break;
  await aPromptIsCompleted();
}

async function errorsAreTyped() {
  const fails = (kind, call, fields) =>
    assert.rejects(call, (error) => {
      assert(error instanceof kind, `${error}`);
      for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value, name);
      return true;
    });
  await fails(OpenAI.BadRequestError, () => client.completions.create({ ...completion, temperature: 9 }), {
    status: 400, param: "temperature", type: "invalid_request_error",
  });
  await fails(OpenAI.BadRequestError, () => client.chat.completions.create({ ...conversation, messages: [] }), {
    param: "messages",
  });
  await fails(OpenAI.BadRequestError, () => client.completions.create({ ...completion, max_tokens: 1e7 }), {
    code: "context_length_exceeded",
  });
  await fails(OpenAI.NotFoundError, () => client.completions.create({ ...completion, model: "nobody" }), {
    status: 404, code: "model_not_found", param: "model",
  });
  await fails(OpenAI.AuthenticationError, () => guarded({ apiKey: "wrong" }).completions.create(completion), {
    status: 401, code: "invalid_api_key",
  });
}

async function metric(name) {
  const lines = (await (await fetch(`${strict}/metrics`)).text()).split("\n");
  return Number(lines.find((line) => line.startsWith(`${name} `))?.split(" ").pop() ?? 0);
}

const refusals = () => metric('honed_errors_total{code="queue_full"}');

// Fills the one slot and the one waiting place with streams; returns what frees them.
async function busy() {
  // What an earlier check left is let go of within a step, but not at once.
  while ((await metric("honed_num_requests_running")) + (await metric("honed_num_requests_waiting")) > 0);
  const leave = new AbortController();
  const headers = { "content-type": "application/json", authorization: `Bearer ${key}` };
  const body = JSON.stringify({ prompt, max_tokens: 200, n: 100, ignore_eos: true, stream: true, store: false });
  for (let i = 0; i < 10; i += 1) {
    // The head of the answer says whether it is inside.
    const ask = { method: "POST", headers, body, signal: leave.signal };
    if ((await fetch(`${strict}/v1/completions`, ask)).status === 429) return () => leave.abort();
  }
  throw new Error("ten streams are inside, though there are two places");
}

async function aFullQueueIsTriedAgain() {
  const free = await busy();
  await assert.rejects(() => guarded().completions.create(completion), OpenAI.RateLimitError);
  const before = await refusals();
  const answer = guarded({ maxRetries: 8 }).completions.create(completion);
  const freed = (async () => {
    while ((await refusals()) === before);
    free();
  })();
  checkUsage((await answer).usage, 16);
  await freed;
}

const checks = [
  modelsAreListed,
  aPromptIsCompleted,
  aChatIsAnswered,
  streamsAreTheSameText,
  streamedChatsAreTheSameText,
  aStreamMayBeDroppedHalfway,
  errorsAreTyped,
  aFullQueueIsTriedAgain,
];
let failed = 0;
for (const check of checks) {
  try {
    await check();
  } catch (error) {
    failed += 1;
    console.log(`openai-node ${check.name} ... FAILED\n${error.stack}`);
  }
}
console.log(`openai-node: ${checks.length - failed} of ${checks.length} checks passed`);
process.exit(failed > 0 ? 1 : 0);
