module plugins/{{name}}

go 1.24

require dropsonde v0.1.0

replace dropsonde => ./dropsonde
