"""openai-python against a running honed: completes, chats, streams, lists models, reads errors, tries again.

Usage: openai_client.py URL STRICT_URL KEY, of a daemon that anybody may ask, and of one with a key, one slot and one waiting
place. Nothing here is special to honed but the two things that it adds: `system_fingerprint` "policy@N" and the header
x-honed-version.
"""

import re
import sys

import openai
from checks import MESSAGES, PROMPT, Busy, raises, retried, run

URL, STRICT, KEY = sys.argv[1:]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=60)


def guarded(key=KEY, max_retries=0):
    return openai.OpenAI(base_url=f"{STRICT}/v1", api_key=key, max_retries=max_retries, timeout=60)


def check_version(fingerprint, headers):
    """The version in the body and the one in the header are the same."""
    match = re.fullmatch(r"policy@(\d+)", fingerprint)
    assert match, fingerprint
    assert headers["x-honed-version"] == match[1], (dict(headers), fingerprint)


def check_usage(usage, most):
    assert usage.prompt_tokens > 0, usage
    assert 0 < usage.completion_tokens <= most, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def models_are_listed():
    names = [model.id for model in client.models.list()]
    assert "policy" in names and "sft" in names, names
    assert client.models.retrieve("policy").id == "policy"


def a_prompt_is_completed():
    raw = client.completions.with_raw_response.create(model="policy", prompt=PROMPT, max_tokens=24, seed=7)
    answer = raw.parse()
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-"), answer
    assert answer.choices[0].finish_reason in ("stop", "length"), answer
    assert isinstance(answer.choices[0].text, str), answer
    check_usage(answer.usage, 24)
    check_version(answer.system_fingerprint, raw.headers)


def a_chat_is_answered():
    raw = client.chat.completions.with_raw_response.create(model="policy", messages=MESSAGES, max_tokens=24, n=2)
    answer = raw.parse()
    assert answer.object == "chat.completion", answer
    assert sorted(choice.index for choice in answer.choices) == [0, 1], answer
    for choice in answer.choices:
        assert choice.message.role == "assistant" and isinstance(choice.message.content, str), choice
        assert "<|" not in choice.message.content, "special tokens are not part of the text"
    check_usage(answer.usage, 48)
    check_version(answer.system_fingerprint, raw.headers)


def log_probs_are_probabilities():
    answer = client.chat.completions.create(
        model="policy", messages=MESSAGES, max_tokens=8, logprobs=True, top_logprobs=3, temperature=0
    )
    tokens = answer.choices[0].logprobs.content
    assert tokens, answer
    for token in tokens:
        best = token.top_logprobs
        assert len(best) == 3 and token.logprob <= 0, token
        assert best[0].logprob >= best[1].logprob >= best[2].logprob, token
        assert token.logprob == best[0].logprob, "temperature 0 draws the most probable token"


def a_streamed_completion_is_the_same_text():
    ask = {"model": "sft", "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(**ask).choices[0]
    text, finish, usage = "", None, None
    for chunk in client.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        assert chunk.system_fingerprint == "policy@0", chunk
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.text
            finish = choice.finish_reason or finish
    assert text == whole.text, (text, whole.text)
    assert finish == whole.finish_reason, (finish, whole)
    check_usage(usage, 24)


def a_streamed_chat_is_the_same_text():
    ask = {"model": "sft", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**ask).choices[0]
    with client.chat.completions.with_streaming_response.create(**ask, stream=True) as raw:
        chunks = list(raw.parse())
        check_version(chunks[0].system_fingerprint, raw.headers)
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert len({chunk.id for chunk in chunks}) == 1, "one answer has one id"
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert text == whole.message.content, (text, whole)
    assert choices[-1].finish_reason == whole.finish_reason, (choices[-1], whole)


def a_stream_may_be_dropped_halfway():
    with client.completions.create(model="policy", prompt=PROMPT, max_tokens=200, stream=True) as stream:
        next(iter(stream))
    a_prompt_is_completed()


def expect_error(kind, param=None, **changes):
    ask = {"model": "policy", "prompt": PROMPT, "max_tokens": 4} | changes
    try:
        client.completions.create(**ask)
    except kind as error:
        body = error.body
        assert isinstance(body, dict) and body["message"] and body["type"], body
        assert param is None or body["param"] == param, body
    else:
        raise AssertionError(f"{changes} was accepted")


def errors_have_openais_shape():
    expect_error(openai.NotFoundError, model="gpt-4o")
    expect_error(openai.BadRequestError, "temperature", temperature=9)
    expect_error(openai.BadRequestError, "max_tokens", max_tokens=0)
    expect_error(openai.BadRequestError, "max_tokens", max_tokens="many")
    expect_error(openai.BadRequestError, "prompt", prompt=[])
    expect_error(openai.BadRequestError, max_tokens=10_000_000)
    a_prompt_is_completed()


def feedback_is_taken_by_id():
    answer = client.completions.create(model="policy", prompt=PROMPT, max_tokens=8)
    receipt = client.post("/feedback", body={"id": answer.id, "label": "up"}, cast_to=object)
    assert isinstance(receipt["applied"], bool), receipt
    try:
        client.post("/feedback", body={"id": "cmpl-0000000000000000", "label": "up"}, cast_to=object)
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("feedback about nothing was accepted")


def wrong_keys_are_refused():
    error = raises(openai.AuthenticationError, lambda: guarded("wrong").models.list())
    assert error.status_code == 401 and error.code == "invalid_api_key", error
    raises(openai.PermissionDeniedError, lambda: guarded().get("/policies", cast_to=object))


def a_full_queue_is_tried_again():
    ask = {"model": "policy", "prompt": PROMPT, "max_tokens": 8}
    busy = Busy(STRICT, KEY)
    error = raises(openai.RateLimitError, lambda: guarded().completions.create(**ask))
    assert error.code == "queue_full" and error.response.headers["retry-after"], error
    busy.end()
    check_usage(retried(STRICT, KEY, lambda: guarded(max_retries=8).completions.create(**ask)).usage, 8)


run("openai-python", [
    models_are_listed,
    a_prompt_is_completed,
    a_chat_is_answered,
    log_probs_are_probabilities,
    a_streamed_completion_is_the_same_text,
    a_streamed_chat_is_the_same_text,
    a_stream_may_be_dropped_halfway,
    errors_have_openais_shape,
    feedback_is_taken_by_id,
    wrong_keys_are_refused,
    a_full_queue_is_tried_again,
])
