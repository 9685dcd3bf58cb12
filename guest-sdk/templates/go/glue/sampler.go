package dropsonde

import (
	"math"
	"time"

	wit "dropsonde/wit/dropsonde_plugin_sampler"
	sampler "dropsonde/wit/export_dropsonde_plugin_sampler"

	contract "dropsonde/wit/dropsonde_plugin_types"
	"dropsonde/wit/types"
)

// Sampler is a plugin that reads instances.
type Sampler interface {
	Plugin
	// Fields returns the fields, in the order of the values in Readings.
	Fields() []Field
	// Discover returns the instances that the plugin finds by itself; perhaps none.
	Discover(tick Tick) ([]Instance, error)
	// Sample reads the given instances: one row of Readings for each, in their order.
	Sample(tick Tick, instances []string) (*Readings, error)
}

// Field is a column of a sampler's readings.
type Field struct {
	// Name ends in the unit that users see: cpu_percent, latency_p95_ms.
	Name string
	// Help is one sentence for people.
	Help string
	// Unit is the unit in words: percent, MiB, bytes/s.
	Unit string
	// Counter is the running total that the plugin reports; nil: a gauge.
	Counter *Counter
	// Aggregation says how several readings become one.
	Aggregation Aggregation
	// Precision is the smallest step that matters; 0 keeps every bit.
	Precision float64
}

// Counter is the running total behind a field.
type Counter struct {
	// Name of the total itself, ending in _total.
	Name string
	// Scale is the units of the field per unit of the total.
	Scale float64
}

// Aggregation says how several readings become one point.
type Aggregation uint8

const (
	Mean = Aggregation(contract.AggregationMean)
	Min  = Aggregation(contract.AggregationMin)
	Max  = Aggregation(contract.AggregationMax)
	Last = Aggregation(contract.AggregationLast)
	Sum  = Aggregation(contract.AggregationSum)
)

// Instance is something that can be measured.
type Instance struct {
	ID     string
	Labels map[string]string
}

// Readings are the rows of one call of Sample.
type Readings struct {
	rows []row
}

type row struct {
	values []float64
	offset time.Duration
	err    error
}

// Add adds the row of the next instance: one value per field. NaN: no value.
func (readings *Readings) Add(values ...float64) { readings.AddAt(0, values...) }

// AddAt adds a row that was read some time after the tick.
func (readings *Readings) AddAt(offset time.Duration, values ...float64) {
	readings.rows = append(readings.rows, row{values: values, offset: offset})
}

// Fail adds the next instance as one without a reading. See Gone, Unavailable and Denied.
func (readings *Readings) Fail(err error) { readings.rows = append(readings.rows, row{err: err}) }

func (readings *Readings) wit(fields int) wit.Readings {
	var list wit.Readings
	for n, row := range readings.rows {
		if row.err != nil {
			failure := wit_types.Tuple2[uint32, contract.Failure]{F0: uint32(n), F1: failed(row.err)}
			list.Failures = append(list.Failures, failure)
			row.values = make([]float64, fields)
			for field := range row.values {
				row.values[field] = math.NaN()
			}
		}
		list.Values = append(list.Values, row.values...)
		list.OffsetsMs = append(list.OffsetsMs, int32(row.offset.Milliseconds()))
	}
	return list
}

// ExportSampler makes a value the plugin, with the role of a sampler.
func ExportSampler(exported Sampler) {
	export(exported)
	sampler.Fields = func() []contract.Field {
		fields := exported.Fields()
		list := make([]contract.Field, len(fields))
		for n, field := range fields {
			kind := contract.MakeKindGauge()
			if total := field.Counter; total != nil {
				kind = contract.MakeKindCounter(contract.Total{Name: total.Name, Scale: total.Scale})
			}
			list[n] = contract.Field{
				Name: field.Name, Help: field.Help, Unit: field.Unit,
				Kind: kind, Aggregation: uint8(field.Aggregation), Precision: field.Precision,
			}
		}
		return list
	}
	sampler.Discover = func(at contract.Tick) wit_types.Result[[]wit.Instance, contract.Failure] {
		instances, err := exported.Discover(tick(at))
		list := make([]wit.Instance, len(instances))
		for n, instance := range instances {
			list[n] = wit.Instance{Id: instance.ID, Labels: pairs(instance.Labels)}
		}
		return result(list, err)
	}
	sampler.Sample = func(at contract.Tick, instances []string) wit_types.Result[wit.Readings, contract.Failure] {
		readings, err := exported.Sample(tick(at), instances)
		if err != nil {
			return result(wit.Readings{}, err)
		}
		return result(readings.wit(len(exported.Fields())), nil)
	}
}
