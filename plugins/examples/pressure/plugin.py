"""Samples how long work on this machine waits for CPU, memory and disks: the kernel's pressure stall information.

Each of /proc/pressure/{cpu,memory,io} has a line like `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`: the
microseconds since boot in which something waited. The plugin returns this running total; the host derives the share.

All totals are also series: `pressure_waiting_seconds_total{resource="io",scope="full"}`. In the scope `full`, which newer
kernels tell, everything waited.
"""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.sampler import Instance, Readings
from wit_world.imports import files, series, types

RESOURCES = ["cpu", "memory", "io"]


class Plugin(exports.Plugin):
    def describe(self):
        about = "How long work on this machine waits for CPU, memory and disks"
        return types.Description(name="pressure", version="0.1.0", about=about)

    def needs(self, config):
        return [types.Need_Read("/proc/pressure/*")]

    def init(self, config):
        pass


class Sampler(exports.Sampler):
    def fields(self):
        return [field(resource) for resource in RESOURCES]

    def discover(self, tick):
        return [Instance(id="host", labels=[])]

    def sample(self, tick, instances):
        waited = {resource: waited_seconds(resource) for resource in RESOURCES}
        row = [scopes["some"] for scopes in waited.values()]
        if "host" in instances:
            series.report("host", points(waited))
        # It knows only this machine; any other instance does not exist here.
        strangers = [n for n, instance in enumerate(instances) if instance != "host"]
        failures = [(n, types.Failure_Gone()) for n in strangers]
        return Readings(values=row * len(instances), offsets_ms=[], failures=failures)


def field(resource):
    return types.Field(
        name=f"{resource}_waiting_percent",
        help=f"Time in which something waited for {resource}",
        unit="percent",
        # 100 × the seconds of waiting per second.
        kind=types.Kind_Counter(types.Total(name=f"{resource}_waiting_seconds_total", scale=100.0)),
        aggregation=types.Aggregation.MEAN,
        precision=0.0001,
    )


def points(waited):
    """Returns handles with values. The same series has the same handle each time."""
    return [
        (handle({"resource": resource, "scope": scope}), seconds)
        for resource, scopes in waited.items()
        for scope, seconds in scopes.items()
    ]


def handle(labels):
    definition = series.Definition(
        name="pressure_waiting_seconds_total",
        metric_type=series.MetricType.COUNTER,
        help="Time in which something, or everything, waited for a resource",
        labels=list(labels.items()),
    )
    return series.define(definition)


def waited_seconds(resource):
    """Returns the seconds since boot by scope."""
    path = f"/proc/pressure/{resource}"
    try:
        text = files.read(path).decode()
    except Err as error:
        denied = error.value == files.FileError_Denied()
        failure = types.Failure_Denied if denied else types.Failure_Unavailable
        raise Err(failure(f"{path}: {error}"))
    lines = (line.split(" ", 1) for line in text.splitlines())
    return {scope: int(rest.rsplit("total=", 1)[1]) / 1e6 for scope, rest in lines}
