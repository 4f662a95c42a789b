"""langchain-openai against a running honed. Usage: langchain_client.py URL STRICT_URL KEY, of a daemon that anybody may ask,
and of one with a key, one slot and one waiting place."""

import sys

import openai
from checks import MESSAGES, PROMPT, Busy, raises, retried, run
from langchain_openai import ChatOpenAI, OpenAI

URL, STRICT, KEY = sys.argv[1:]
QUESTION = MESSAGES[0]["content"]


def chat(url=URL, key="none", **changes):
    settings = {"model": "policy", "max_tokens": 16, "max_retries": 0, "timeout": 60} | changes
    return ChatOpenAI(base_url=f"{url}/v1", api_key=key, **settings)


def complete(url=URL, key="none", **changes):
    settings = {"model": "policy", "max_tokens": 16, "max_retries": 0, "timeout": 60} | changes
    return OpenAI(base_url=f"{url}/v1", api_key=key, **settings)


def check_usage(usage, most=16):
    assert usage["input_tokens"] > 0 and 0 < usage["output_tokens"] <= most, usage
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"], usage


def a_prompt_is_completed():
    result = complete(n=2, best_of=2).generate([PROMPT, PROMPT])
    assert [len(generations) for generations in result.generations] == [2, 2], result
    assert result.llm_output["token_usage"]["completion_tokens"] > 0, result


def a_chat_is_answered():
    answer = chat().invoke([("system", "Answer in one word."), ("human", QUESTION)])
    assert isinstance(answer.content, str), answer
    assert answer.response_metadata["system_fingerprint"].startswith("policy@"), answer
    assert answer.response_metadata["finish_reason"] in ("stop", "length"), answer
    check_usage(answer.usage_metadata)


def streams_are_the_same_text():
    whole = complete(temperature=0).invoke(PROMPT)
    assert "".join(complete(temperature=0).stream(PROMPT)) == whole
    whole = chat(temperature=0).invoke(QUESTION).content
    chunks = list(chat(temperature=0, stream_usage=True).stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == whole, chunks
    check_usage(next(chunk.usage_metadata for chunk in chunks if chunk.usage_metadata))


def batches_are_answered_in_order():
    answers = chat(temperature=0).batch([QUESTION, "Name a bear.", QUESTION])
    assert answers[0].content == answers[2].content and len(answers) == 3, answers


def log_probs_are_told():
    answer = chat(logprobs=True, top_logprobs=2).invoke(QUESTION)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert tokens and all(len(token["top_logprobs"]) == 2 for token in tokens), tokens


def answers_fit_a_schema():
    schema = {
        "title": "sea", "type": "object", "properties": {"blue": {"type": "boolean"}}, "required": ["blue"],
        "additionalProperties": False,
    }
    answer = chat(max_tokens=100).with_structured_output(schema, method="json_schema").invoke(QUESTION)
    assert isinstance(answer["blue"], bool), answer


def errors_are_typed():
    for make in (chat, complete):
        error = raises(openai.BadRequestError, lambda: make(temperature=9).invoke(PROMPT))
        assert error.body["param"] == "temperature", error
        raises(openai.AuthenticationError, lambda: make(STRICT, "wrong").invoke(PROMPT))
        error = raises(openai.NotFoundError, lambda: make(model="nobody").invoke(PROMPT))
        assert error.code == "model_not_found", error


def a_full_queue_is_tried_again():
    busy = Busy(STRICT, KEY)
    raises(openai.RateLimitError, lambda: chat(STRICT, KEY).invoke(QUESTION))
    busy.end()
    check_usage(retried(STRICT, KEY, lambda: chat(STRICT, KEY, max_retries=8).invoke(QUESTION)).usage_metadata)


run("langchain-openai", [
    a_prompt_is_completed,
    a_chat_is_answered,
    streams_are_the_same_text,
    batches_are_answered_in_order,
    log_probs_are_told,
    answers_fit_a_schema,
    errors_are_typed,
    a_full_queue_is_tried_again,
])
