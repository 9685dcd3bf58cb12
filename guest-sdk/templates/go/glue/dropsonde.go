// Package dropsonde is what a plugin in Go needs. The packages under wit are the whole contract, generated; this package
// makes them Go.
//
// A plugin is a program whose init function exports its roles. Its main function never runs:
//
//	func init() { dropsonde.ExportSampler(&load{}) }
//	func main() {}
package dropsonde

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	plugin "dropsonde/wit/export_dropsonde_plugin_plugin"

	wit "dropsonde/wit/dropsonde_plugin_types"
	_ "dropsonde/wit/wit_exports"

	"dropsonde/wit/types"
)

// Plugin has the functions of every plugin.
type Plugin interface {
	// Describe describes the plugin.
	Describe() Description
	// Needs returns the grants that the plugin needs with this configuration. The host calls it without any grant, on a
	// value that does not work afterwards. An error says what is wrong with the configuration.
	Needs(config Config) ([]Need, error)
	// Init prepares the plugin. The host calls it once, before any function of a role.
	Init(config Config) error
}

// Description says what a plugin is.
type Description struct {
	Name, Version string
	// About is one sentence that says what the plugin does.
	About string
}

// Config is the plugin's configuration, a JSON object: `{}` if the operator gave none.
type Config string

// Decode reads the configuration into a struct, as json.Unmarshal does.
func (config Config) Decode(into any) error {
	if err := json.Unmarshal([]byte(config), into); err != nil {
		return Invalid("%w", err)
	}
	return nil
}

// Need is a capability that the plugin asks for.
type Need struct{ need wit.Need }

// NeedRead asks to read the files that match a glob of absolute paths.
func NeedRead(glob string) Need { return Need{wit.MakeNeedRead(glob)} }

// NeedHTTP asks to send requests to an origin.
func NeedHTTP(origin string) Need { return Need{wit.MakeNeedHttp(origin)} }

// NeedEnv asks for an environment variable.
func NeedEnv(name string) Need { return Need{wit.MakeNeedEnv(name)} }

// NeedDir asks to read a directory through package os.
func NeedDir(path string) Need { return Need{wit.MakeNeedDir(path)} }

// Tick is the host's clock, and the budget of a call.
type Tick struct {
	// At is the scheduled time.
	At time.Time
	// Monotonic is a clock that never goes back. Only differences between two ticks have a meaning.
	Monotonic time.Duration
	// Budget is the CPU time that this call may use.
	Budget time.Duration
	// Interval is the time between two ticks.
	Interval time.Duration
}

func tick(tick wit.Tick) Tick {
	const ms = time.Millisecond
	at, monotonic := time.UnixMilli(int64(tick.AtMs)).UTC(), time.Duration(tick.MonotonicNs)
	return Tick{at, monotonic, time.Duration(tick.BudgetMs) * ms, time.Duration(tick.IntervalMs) * ms}
}

// Gone is the failure of an instance that does not exist: the host ends it.
var Gone = errors.New("the instance is gone")

type failure struct {
	make func(string) wit.Failure
	err  error
}

func (failure failure) Error() string { return failure.err.Error() }
func (failure failure) Unwrap() error { return failure.err }

// Unavailable is the failure of a reading that there is not this time. So is every other error.
func Unavailable(format string, values ...any) error {
	return failure{wit.MakeFailureUnavailable, fmt.Errorf(format, values...)}
}

// Denied is the failure of what the plugin is not granted. So is every error that is fs.ErrPermission.
func Denied(format string, values ...any) error {
	return failure{wit.MakeFailureDenied, fmt.Errorf(format, values...)}
}

// Invalid says that the configuration cannot work: the host stops the plugin.
func Invalid(format string, values ...any) error {
	return failure{wit.MakeFailureInvalid, fmt.Errorf(format, values...)}
}

func failed(err error) wit.Failure {
	var failure failure
	switch {
	case errors.Is(err, Gone):
		return wit.MakeFailureGone()
	case errors.As(err, &failure):
		return failure.make(err.Error())
	case errors.Is(err, fs.ErrPermission):
		return wit.MakeFailureDenied(err.Error())
	default:
		return wit.MakeFailureUnavailable(err.Error())
	}
}

// result makes a result of the contract. Errors become a Failure.
func result[T any](value T, err error) wit_types.Result[T, wit.Failure] {
	if err != nil {
		return wit_types.Err[T](failed(err))
	}
	return wit_types.Ok[T, wit.Failure](value)
}

func some[T, W any](value *T, convert func(T) W) wit_types.Option[W] {
	if value == nil {
		return wit_types.None[W]()
	}
	return wit_types.Some(convert(*value))
}

type pair[T any] = wit_types.Tuple2[string, T]

func pairs[T any](values map[string]T) []pair[T] {
	pairs := make([]pair[T], 0, len(values))
	for key, value := range values {
		pairs = append(pairs, pair[T]{F0: key, F1: value})
	}
	return pairs
}

func export(exported Plugin) {
	plugin.Describe = func() wit.Description {
		about := exported.Describe()
		return wit.Description{Name: about.Name, Version: about.Version, About: about.About}
	}
	plugin.Needs = func(config string) wit_types.Result[[]wit.Need, string] {
		needs, err := exported.Needs(Config(config))
		if err != nil {
			return wit_types.Err[[]wit.Need](err.Error())
		}
		list := make([]wit.Need, len(needs))
		for n, need := range needs {
			list[n] = need.need
		}
		return wit_types.Ok[[]wit.Need, string](list)
	}
	plugin.Init = func(config string) wit_types.Result[wit_types.Unit, wit.Failure] {
		return result(wit_types.Unit{}, exported.Init(Config(config)))
	}
}
