"""Samples the queues of a RabbitMQ server: one instance per queue.

Configuration: `url`, the server's management API, and `user` and `password_file`, if it asks for them. The API answers
GET /api/queues with a list of queues; it counts what was ever published to each.
"""

import base64
import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.sampler import Instance, Readings
from wit_world.imports import dropsonde_plugin_types as types
from wit_world.imports import files, outgoing_handler
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.wasi_http_types import ErrorCode_HttpRequestDenied, Fields, OutgoingRequest
from wit_world.imports.wasi_http_types import Scheme_Http, Scheme_Https

config = {"url": "http://127.0.0.1:15672", "user": "guest", "password_file": None}


class Plugin(exports.Plugin):
    def describe(self):
        return types.Description(name="rabbitmq", version="0.1.0", about="Queues of a RabbitMQ server")

    def needs(self, text):
        wanted = config | json.loads(text)
        password = [types.Need_Read(wanted["password_file"])] if wanted["password_file"] else []
        return [types.Need_Http(f"GET {wanted['url']} /api/queues"), *password]

    def init(self, text):
        config.update(json.loads(text))


class Sampler(exports.Sampler):
    def fields(self):
        return [
            gauge("messages_ready", "Messages that wait for a consumer"),
            gauge("messages_unacknowledged", "Messages that consumers have and did not acknowledge"),
            gauge("consumers", "Consumers of the queue"),
            types.Field(
                name="published_per_sec",
                help="Messages published to the queue",
                unit="per second",
                kind=types.Kind_Counter(types.Total(name="messages_published_total", scale=1.0)),
                aggregation=types.Aggregation.MEAN,
                precision=0.01,
            ),
        ]

    def discover(self, tick):
        return [Instance(id, [("vhost", queue["vhost"])]) for id, queue in queues().items()]

    def sample(self, tick, instances):
        now = queues()
        values, failures = [], []
        for n, instance in enumerate(instances):
            if instance not in now:
                failures.append((n, types.Failure_Gone()))
            values += row(now.get(instance, {}))
        return Readings(values=values, offsets_ms=[], failures=failures)


def gauge(name, help):
    return types.Field(name, help, "", types.Kind_Gauge(), types.Aggregation.MEAN, precision=1.0)


def row(queue):
    # A number that the server leaves out is no reading.
    published = queue.get("message_stats", {}).get("publish", float("nan"))
    fields = ["messages_ready", "messages_unacknowledged", "consumers"]
    return [float(queue.get(field, float("nan"))) for field in fields] + [float(published)]


def queues():
    """Returns the queues that the server has now, by instance."""
    url = f"{config['url']}/api/queues"
    headers = []
    if config["password_file"]:
        try:
            password = files.read(config["password_file"]).strip()
        except Err as error:
            raise Err(types.Failure_Unavailable(f"{config['password_file']}: {error}"))
        secret = base64.b64encode(config["user"].encode() + b":" + password)
        headers.append(("authorization", b"Basic " + secret))
    status, body = get(url, headers)
    if status != 200:
        raise Err(types.Failure_Unavailable(f"{url} answers with status {status}"))
    try:
        # An id contains no slash, and the default virtual host is called `/`.
        return {f"queue-{q['vhost']}-{q['name']}".replace("/", "_"): q for q in json.loads(body)}
    except ValueError as error:
        raise Err(types.Failure_Unavailable(f"{url}: {error}"))


def get(url, headers):
    """Sends a GET request. Returns the status and the body."""
    scheme, rest = url.split("://", 1)
    authority, _, path = rest.partition("/")
    request = OutgoingRequest(Fields.from_list(headers))
    request.set_scheme(Scheme_Https() if scheme == "https" else Scheme_Http())
    request.set_authority(authority)
    request.set_path_with_query(f"/{path}")
    try:
        pending = outgoing_handler.handle(request, None)
        pending.subscribe().block()
        # The value of the outer result is the result of the request.
        answer = pending.get().value
        if isinstance(answer, Err):
            raise answer
        response = answer.value
    except Err as error:
        if error.value == ErrorCode_HttpRequestDenied():
            raise Err(types.Failure_Denied(f"GET {url} is not granted"))
        raise Err(types.Failure_Unavailable(f"GET {url}: {error.value}"))
    body = b""
    with response.consume() as content, content.stream() as stream:
        while True:
            try:
                body += stream.blocking_read(65536)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return response.status(), body
                raise Err(types.Failure_Unavailable(f"{url}: the response broke off"))
