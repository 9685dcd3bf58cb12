// Package export_dropsonde_plugin_plugin has the functions that the generated exports call. Package dropsonde sets them.
package export_dropsonde_plugin_plugin

import (
	wit "dropsonde/wit/dropsonde_plugin_types"
	"dropsonde/wit/types"
)

var (
	Describe func() wit.Description
	Needs    func(config string) wit_types.Result[[]wit.Need, string]
	Init     func(config string) wit_types.Result[wit_types.Unit, wit.Failure]
)
