// Package export_dropsonde_plugin_source has the function that the generated export calls. Package dropsonde sets it.
package export_dropsonde_plugin_source

import (
	wit "dropsonde/wit/dropsonde_plugin_source"
	"dropsonde/wit/types"
)

var Collect func(tick wit.Tick) wit_types.Result[wit.Stats, wit.Failure]
