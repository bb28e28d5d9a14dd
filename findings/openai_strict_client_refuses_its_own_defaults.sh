#!/usr/bin/env bash
# openai 3.57.0, the Python client, with _strict_response_validation=True, against answers in the published form.
#
# The option that makes the client check every answer is no check of a server by itself: three valid answers are refused.
# embeddings.create() without encoding_format asks for base64, as it always does, and checks the answer before it decodes
# it, so that a string stands where its type wants numbers. Echoed prompts of completions.create() begin with a null, as
# nothing precedes the first token, where its type wants numbers. files.create(purpose="evals") sends a purpose that its
# own type of the answer does not have. Without the option all three calls work, and the vectors are decoded.
# responses.stream() raises, in both modes, at the end of an answer that was cut off by max_output_tokens: it waits for
# `response.completed`, and the event is `response.incomplete`.
#
# Seen 2026-11-29:
#   embeddings: plain [0.5, 2.0], strict APIResponseValidationError
#   completions: plain [None, -1.5], strict APIResponseValidationError
#   files: plain evals, strict APIResponseValidationError
#   stream of an incomplete response: plain RuntimeError, strict RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openai==3.57.0
cat > "$folder/look.py" <<'PYTHON'
import base64
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

VECTOR = base64.b64encode(struct.pack("<2f", 0.5, 2.0)).decode()
LOGPROBS = {"tokens": ["a", "b"], "token_logprobs": [None, -1.5], "top_logprobs": [None, {"b": -1.5}], "text_offset": [0, 1]}
USAGE = {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 1,
         "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2}
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1.0, "status": "incomplete", "error": None, "model": "m",
    "incomplete_details": {"reason": "max_output_tokens"}, "instructions": None, "metadata": {}, "output": [],
    "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "usage": USAGE,
}
EVENTS = [
    {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress", "usage": None, "incomplete_details": None}},
    {"type": "response.incomplete", "sequence_number": 1, "response": RESPONSE},
]
ANSWERS = {
    "/v1/embeddings": {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
                       "usage": {"prompt_tokens": 1, "total_tokens": 1}},
    "/v1/completions": {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
                        "choices": [{"index": 0, "text": "ab", "logprobs": LOGPROBS, "finish_reason": "length"}]},
    "/v1/files": {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "a", "purpose": "evals",
                  "status": "processed"},
}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        kind, data = "application/json", json.dumps(ANSWERS.get(self.path)).encode()
        if self.path == "/v1/responses":
            kind = "text/event-stream"
            data = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in EVENTS).encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def streamed(client):
    with client.responses.stream(model="m", input="a") as stream:
        return stream.get_final_response().status


CALLS = {
    "embeddings": lambda client: client.embeddings.create(model="m", input="a").data[0].embedding,
    "completions": lambda client: client.completions.create(model="m", prompt="a", echo=True, logprobs=1)
    .choices[0].logprobs.token_logprobs,
    "files": lambda client: client.files.create(file=("a", b"a"), purpose="evals").purpose,
    "stream of an incomplete response": streamed,
}


def outcome(call, client):
    try:
        return call(client)
    except Exception as error:
        return type(error).__name__


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/v1"
clients = [openai.OpenAI(base_url=address, api_key="k", max_retries=0, _strict_response_validation=strict) for strict in (False, True)]
for name, call in CALLS.items():
    plain, strict = (outcome(call, client) for client in clients)
    print(f"{name}: plain {plain}, strict {strict}")
PYTHON
"$folder/venv/bin/python" "$folder/look.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
embeddings: plain [0.5, 2.0], strict APIResponseValidationError
completions: plain [None, -1.5], strict APIResponseValidationError
files: plain evals, strict APIResponseValidationError
stream of an incomplete response: plain RuntimeError, strict RuntimeError
SEEN
