package dropsonde

import (
	"time"

	observer "dropsonde/wit/export_dropsonde_plugin_observer"

	wit "dropsonde/wit/dropsonde_plugin_observer"
	contract "dropsonde/wit/dropsonde_plugin_types"
	"dropsonde/wit/types"
)

// Observer is a plugin that receives the events that an application pushes.
type Observer interface {
	Plugin
	// Observe receives one batch.
	Observe(tick Tick, events []Event) error
}

// Event is something that happened in an application.
type Event struct {
	At   time.Time
	Name string
	// Subject is the thing that the event is about; may be empty.
	Subject string
	// Value is 1 if the application gave none.
	Value      float64
	Attributes map[string]string
}

// ExportObserver makes a value the plugin, with the role of an observer.
func ExportObserver(exported Observer) {
	export(exported)
	observer.Observe = func(at contract.Tick, list []wit.Event) wit_types.Result[wit_types.Unit, contract.Failure] {
		events := make([]Event, len(list))
		for n, event := range list {
			attributes := make(map[string]string, len(event.Attributes))
			for _, pair := range event.Attributes {
				attributes[pair.F0] = pair.F1
			}
			at := time.UnixMilli(int64(event.AtMs)).UTC()
			events[n] = Event{at, event.Name, event.Subject, event.Value, attributes}
		}
		return result(wit_types.Unit{}, exported.Observe(tick(at), events))
	}
}
