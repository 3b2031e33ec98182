"""A model server that speaks the Open Inference Protocol v2, in the standard library only; it counts
views, and goes wrong by the user's name."""

import http.server
import json
import os
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def reply(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):  # /v2/health/ready and /v2/models/MODEL/ready
        self.reply({})

    def do_POST(self):  # /v2/models/MODEL/infer
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        inputs = {one["name"]: one for one in asked["inputs"]}
        users = inputs["user_id"]["data"]
        if "history" in inputs:
            scores = [float(len(json.loads(history))) for history in inputs["history"]["data"]]
        else:
            names = json.loads(inputs["features"]["parameters"]["columns"])
            n, k = inputs["features"]["shape"]
            data = inputs["features"]["data"]
            scores = [data[i * k + names.index("views")] for i in range(n)]
        for i, user in enumerate(users):
            if user == "hang":
                time.sleep(30)
            elif user == "raise":
                return self.reply({"error": "no good"}, 500)
            elif user == "shape":
                scores.append(1.0)
            elif user == "nan":
                scores[i] = float("nan")
            elif user == "exit":
                os._exit(3)
        self.reply({"model_name": "counter", "outputs": [
            {"name": "output", "datatype": "FP64", "shape": [len(scores)], "data": scores}]})

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
