"""What the Python clients' checks share: how they are run and told, and how a daemon is kept busy."""

import http.client
import json
import sys
import threading
import traceback
import urllib.parse
import urllib.request

PROMPT = "Write three adjectives to describe the ocean.\n"
MESSAGES = [{"role": "user", "content": "What color is the sky?"}]


def run(client, checks):
    """Runs every check, tells the faults, and ends the process with status 1 when there are any."""
    n_failed = 0
    for check in checks:
        try:
            check()
        except Exception:
            n_failed += 1
            print(f"{client} {check.__name__} ... FAILED\n{traceback.format_exc()}")
    print(f"{client}: {len(checks) - n_failed} of {len(checks)} checks passed")
    sys.exit(n_failed > 0)


def raises(kind, call):
    """The error of this kind that the call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")


def metric(url, name):
    """One number of /metrics; 0 when it is not there yet."""
    with urllib.request.urlopen(f"{url}/metrics") as page:
        lines = page.read().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def refusals(url):
    """How many requests the daemon has answered with "queue_full"."""
    return metric(url, 'honed_errors_total{code="queue_full"}')


class Busy:
    """Fills the one slot and the one waiting place of a daemon with streams, until `end`."""

    def __init__(self, url, key):
        self.connections = []
        # What an earlier check left is let go of within a step, but not at once.
        while any(metric(url, f"honed_num_requests_{state}") for state in ("running", "waiting")):
            pass
        body = {"prompt": PROMPT, "max_tokens": 200, "n": 100, "ignore_eos": True, "stream": True, "store": False}
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        for _ in range(10):
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
            self.connections.append(connection)
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            # The head of the answer says whether it is inside.
            if connection.getresponse().status == 429:
                return
        raise AssertionError("ten streams are inside, though there are two places")

    def end(self):
        for connection in self.connections:
            connection.close()


def retried(url, key, call):
    """The answer of a call that is first refused with 429 and succeeds because its client tries again."""
    busy = Busy(url, key)
    before = refusals(url)

    def free():
        # The place is free again once the daemon has refused, not after a time.
        while refusals(url) == before:
            pass
        busy.end()

    freeing = threading.Thread(target=free, daemon=True)
    freeing.start()
    answer = call()
    assert refusals(url) > before, "it was not refused even once"
    freeing.join()
    return answer
