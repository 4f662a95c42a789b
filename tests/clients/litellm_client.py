"""litellm against a running honed. Usage: litellm_client.py URL STRICT_URL KEY, of a daemon that anybody may ask, and of one
with a key, one slot and one waiting place."""

import os
import sys

# Its table of prices would be fetched from its makers.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from checks import MESSAGES, PROMPT, Busy, raises, retried, run

URL, STRICT, KEY = sys.argv[1:]
litellm.telemetry = False
litellm.suppress_debug_info = True


def chat(url=URL, key="none", **changes):
    ask = {"model": "openai/policy", "messages": MESSAGES, "max_tokens": 16, "max_retries": 0} | changes
    return litellm.completion(api_base=f"{url}/v1", api_key=key, timeout=60, **ask)


def complete(url=URL, key="none", **changes):
    ask = {"model": "text-completion-openai/policy", "prompt": PROMPT, "max_tokens": 16, "max_retries": 0} | changes
    return litellm.text_completion(api_base=f"{url}/v1", api_key=key, timeout=60, **ask)


def check_usage(usage, most):
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= most, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def a_prompt_is_completed():
    answer = complete()
    assert isinstance(answer.choices[0].text, str), answer
    assert answer.choices[0].finish_reason in ("stop", "length"), answer
    check_usage(answer.usage, 16)


def a_chat_is_answered():
    answer = chat(n=2)
    assert len(answer.choices) == 2 and answer.choices[0].message.role == "assistant", answer
    check_usage(answer.usage, 32)


def vllms_name_of_the_provider_works_too():
    check_usage(chat(model="hosted_vllm/policy").usage, 16)


def streams_are_the_same_text():
    same = {"temperature": 0}
    whole = complete(**same).choices[0].text
    assert "".join(chunk.choices[0].text or "" for chunk in complete(**same, stream=True)) == whole
    whole = chat(**same).choices[0].message.content
    chunks = list(chat(**same, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole, chunks
    check_usage(next(chunk.usage for chunk in chunks if getattr(chunk, "usage", None)), 16)


def log_probs_are_told():
    tokens = chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert tokens and all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens), tokens


def errors_are_typed():
    for call in (chat, complete):
        error = raises(litellm.BadRequestError, lambda: call(temperature=9))
        assert error.status_code == 400 and "temperature" in str(error), error
        raises(litellm.AuthenticationError, lambda: call(STRICT, "wrong"))
    raises(litellm.NotFoundError, lambda: chat(model="openai/nobody"))
    raises(litellm.NotFoundError, lambda: complete(model="text-completion-openai/nobody"))


def a_full_queue_is_tried_again():
    busy = Busy(STRICT, KEY)
    raises(litellm.RateLimitError, lambda: chat(STRICT, KEY))
    busy.end()
    check_usage(retried(STRICT, KEY, lambda: chat(STRICT, KEY, max_retries=8)).usage, 16)


def documents_are_ranked():
    documents = ["Blue.", "I do not know.", "Green and loud."]
    answer = litellm.rerank(
        model="hosted_vllm/reward", query=MESSAGES[0]["content"], documents=documents, top_n=2, api_base=URL
    )
    scores = [result["relevance_score"] for result in answer.results]
    assert len(scores) == 2 and scores[0] >= scores[1], answer


run("litellm", [
    a_prompt_is_completed,
    a_chat_is_answered,
    vllms_name_of_the_provider_works_too,
    streams_are_the_same_text,
    log_probs_are_told,
    errors_are_typed,
    a_full_queue_is_tried_again,
    documents_are_ranked,
])
