"""Samples the load average. Configuration: `path`, the file to read."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.sampler import Instance, Readings
from wit_world.imports import files, types

config = {"path": "/proc/loadavg"}


class Plugin(exports.Plugin):
    def describe(self):
        return types.Description(name="{{name}}", version="0.1.0", about="{{about}}")

    def needs(self, text):
        return [types.Need_Read((config | json.loads(text))["path"])]

    def init(self, text):
        config.update(json.loads(text))


class Sampler(exports.Sampler):
    def fields(self):
        gauge, mean = types.Kind_Gauge(), types.Aggregation.MEAN
        return [types.Field("load_avg_1m", "1-minute load average", "", gauge, mean, precision=0.01)]

    def discover(self, tick):
        return [Instance(id="host", labels=[])]

    def sample(self, tick, instances):
        try:
            load = float(files.read(config["path"]).split()[0])
        except Err as error:
            denied = error.value == files.FileError_Denied()
            failure = types.Failure_Denied if denied else types.Failure_Unavailable
            raise Err(failure(f"{config['path']}: {error}"))
        # It knows only this machine; any other instance does not exist here.
        strangers = [(n, types.Failure_Gone()) for n, instance in enumerate(instances) if instance != "host"]
        return Readings(values=[load] * len(instances), offsets_ms=[], failures=strangers)
