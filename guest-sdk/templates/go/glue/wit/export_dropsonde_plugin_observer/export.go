// Package export_dropsonde_plugin_observer has the function that the generated export calls. Package dropsonde sets it.
package export_dropsonde_plugin_observer

import (
	wit "dropsonde/wit/dropsonde_plugin_observer"
	"dropsonde/wit/types"
)

var Observe func(tick wit.Tick, events []wit.Event) wit_types.Result[wit_types.Unit, wit.Failure]
