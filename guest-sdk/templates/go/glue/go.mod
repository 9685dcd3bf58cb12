module dropsonde

go 1.24
