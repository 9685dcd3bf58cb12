package dropsonde

import (
	wit "dropsonde/wit/dropsonde_plugin_source"
	source "dropsonde/wit/export_dropsonde_plugin_source"

	contract "dropsonde/wit/dropsonde_plugin_types"
	"dropsonde/wit/types"
)

// Source is a plugin that describes an application.
type Source interface {
	Plugin
	// Collect returns the current statistics.
	Collect(tick Tick) (Stats, error)
}

// Stats are the statistics of an application. A section that the source knows nothing about is nil.
type Stats struct {
	Channels  *ChannelStats
	Envelopes *EnvelopeStats
	Presence  *PresenceStats
	History   *HistoryStats
	Tokens    *TokenStats
	Cache     *CacheStats
}

type ChannelStats struct {
	TotalActive int64
	ByPattern   map[string]int64
}

type EnvelopeStats struct {
	RatePerSecond float64
	ByAspect      map[string]int64
}

type (
	PresenceStats = wit.PresenceStats
	HistoryStats  = wit.HistoryStats
	TokenStats    = wit.TokenStats
	CacheStats    = wit.CacheStats
)

// ExportSource makes a value the plugin, with the role of a source.
func ExportSource(exported Source) {
	export(exported)
	source.Collect = func(at contract.Tick) wit_types.Result[wit.Stats, contract.Failure] {
		stats, err := exported.Collect(tick(at))
		return result(wit.Stats{
			Channels: some(stats.Channels, func(stats ChannelStats) wit.ChannelStats {
				return wit.ChannelStats{TotalActive: stats.TotalActive, ByPattern: pairs(stats.ByPattern)}
			}),
			Envelopes: some(stats.Envelopes, func(stats EnvelopeStats) wit.EnvelopeStats {
				return wit.EnvelopeStats{RatePerSecond: stats.RatePerSecond, ByAspect: pairs(stats.ByAspect)}
			}),
			Presence: some(stats.Presence, same[PresenceStats]),
			History:  some(stats.History, same[HistoryStats]),
			Tokens:   some(stats.Tokens, same[TokenStats]),
			Cache:    some(stats.Cache, same[CacheStats]),
		}, err)
	}
}

func same[T any](value T) T { return value }
