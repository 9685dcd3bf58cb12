// Reports a number of open channels. Configuration: `total`, the number to report.
package main

import "dropsonde"

type channels struct {
	Total int64 `json:"total"`
}

func init() { dropsonde.ExportSource(&channels{}) }
func main() {}

func (*channels) Describe() dropsonde.Description {
	return dropsonde.Description{Name: "{{name}}", Version: "0.1.0", About: "{{about}}"}
}

func (*channels) Needs(config dropsonde.Config) ([]dropsonde.Need, error) {
	return nil, nil
}

func (channels *channels) Init(config dropsonde.Config) error {
	return config.Decode(channels)
}

func (channels *channels) Collect(tick dropsonde.Tick) (dropsonde.Stats, error) {
	return dropsonde.Stats{Channels: &dropsonde.ChannelStats{TotalActive: channels.Total}}, nil
}
