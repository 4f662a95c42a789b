"""What schemathesis must know of the daemon beside its OpenAPI document."""

import schemathesis

# Codes of a 400 for rules that JSON Schema has no words for; the daemon's document names them in the description of that
# status. A request that breaks the document gets `invalid_value`, so a schema that promises too much is still found.
BEYOND_THE_SCHEMA = {
    # Two lengths or two numbers are compared: `best_of` and `n`, `text_1` and `text_2`, prompts times choices.
    "fields_disagree",
    # How many tokens a text has is for the vocabulary to say, and how many fit is for the model that is served.
    "context_length_exceeded",
    # The vocabulary's size is the model's too: the same document describes them all.
    "unknown_token",
    # Whether a text is a regular expression, a grammar, or the text of a JSON schema that can be followed.
    "invalid_grammar",
    # What the model's own chat template takes, and who speaks last.
    "invalid_messages",
    # What is on the disk.
    "invalid_path",
    "invalid_model",
}


def held(body, param):
    """What a request holds under the name that an error gives: `response_format.schema`."""
    for name in param.split("."):
        body = body.get(name) if isinstance(body, dict) else None
    return body


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Keeps every failure but the refusal of a request that breaks such a rule."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    error = response.json()["error"]
    # The schema that allows everything can always be followed.
    if error["code"] == "invalid_grammar" and held(case.body, error["param"]) == {}:
        return True
    return error["code"] not in BEYOND_THE_SCHEMA
