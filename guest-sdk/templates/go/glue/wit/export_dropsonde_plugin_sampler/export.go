// Package export_dropsonde_plugin_sampler has the functions that the generated exports call. Package dropsonde sets them.
package export_dropsonde_plugin_sampler

import (
	wit "dropsonde/wit/dropsonde_plugin_sampler"
	"dropsonde/wit/types"
)

var (
	Fields   func() []wit.Field
	Discover func(tick wit.Tick) wit_types.Result[[]wit.Instance, wit.Failure]
	Sample   func(tick wit.Tick, instances []string) wit_types.Result[wit.Readings, wit.Failure]
)
