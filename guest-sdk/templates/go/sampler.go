// Samples the load average. Configuration: `path`, the file to read.
package main

import (
	"strconv"
	"strings"

	"dropsonde"
)

type load struct {
	Path string `json:"path"`
}

func init() { dropsonde.ExportSampler(&load{Path: "/proc/loadavg"}) }
func main() {}

func (*load) Describe() dropsonde.Description {
	return dropsonde.Description{Name: "{{name}}", Version: "0.1.0", About: "{{about}}"}
}

func (load *load) Needs(config dropsonde.Config) ([]dropsonde.Need, error) {
	err := config.Decode(load)
	return []dropsonde.Need{dropsonde.NeedRead(load.Path)}, err
}

func (load *load) Init(config dropsonde.Config) error {
	return config.Decode(load)
}

func (*load) Fields() []dropsonde.Field {
	return []dropsonde.Field{{Name: "load_avg_1m", Help: "1-minute load average", Precision: 0.01}}
}

func (*load) Discover(tick dropsonde.Tick) ([]dropsonde.Instance, error) {
	return []dropsonde.Instance{{ID: "host"}}, nil
}

func (load *load) Sample(tick dropsonde.Tick, instances []string) (*dropsonde.Readings, error) {
	text, err := dropsonde.ReadFile(load.Path)
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	value, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return nil, err
	}
	var readings dropsonde.Readings
	for _, instance := range instances {
		if instance == "host" {
			readings.Add(value)
		} else { // It knows only this machine; any other instance does not exist here.
			readings.Fail(dropsonde.Gone)
		}
	}
	return &readings, nil
}
