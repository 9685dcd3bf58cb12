"""Reports a number of open channels. Configuration: `total`, the number to report."""

import json

from wit_world import exports
from wit_world.exports.source import ChannelStats, Stats
from wit_world.imports import types

config = {"total": 0}


class Plugin(exports.Plugin):
    def describe(self):
        return types.Description(name="{{name}}", version="0.1.0", about="{{about}}")

    def needs(self, text):
        return []

    def init(self, text):
        config.update(json.loads(text))


class Source(exports.Source):
    def collect(self, tick):
        channels = ChannelStats(total_active=config["total"], by_pattern=[])
        return Stats(channels, envelopes=None, presence=None, history=None, tokens=None, cache=None)
